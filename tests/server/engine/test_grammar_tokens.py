"""The tokenizer that grammars are compiled for is the one that llguidance would make itself."""

from pathlib import Path
from typing import Any, cast

import pytest
from llguidance import LLMatcher, LLTokenizer
from llguidance.hf import from_tokenizer
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import bytes_to_unicode

from verse.base_model import load_base_tokenizer
from verse_server.engine.sampling import grammar_tokens
from verse_server.engine.sampling.grammar_tokens import make_grammar_tokenizer

TEXTS = ("静夜思 {'a': 1}", "龘", "ab <ab> xyz", "<|im_end|>[X]", " \n\n", "é")
SCHEMA = LLMatcher.grammar_from_json_schema('{"type": "object"}')
UNUSED = 3


def from_tiny(tiny_base: Path) -> Any:
    return load_base_tokenizer(str(tiny_base)).hf_tokenizer


def from_bytes(decoder: Any = None) -> Any:
    """One of bytes, two longer tokens, and added ones of all sorts."""
    names = [*bytes_to_unicode().values(), "ab", "<ab>"]
    model = models.BPE(vocab={name: token for token, name in enumerate(names)}, merges=[("a", "b")])
    made = Tokenizer(model)
    made.pre_tokenizer = cast(Any, pre_tokenizers.ByteLevel(add_prefix_space=False))
    made.decoder = cast(Any, decoder or decoders.ByteLevel())
    plain = ("xyz", "<xyz>", "[X]", "<诗>", "< a>", "<>", "<")
    made.add_tokens([AddedToken(name, special=False) for name in plain])
    made.add_special_tokens(cast(Any, [AddedToken("<|im_end|>", special=True), "S"]))
    return cast(Any, PreTrainedTokenizerFast)(tokenizer_object=made)


def both(hf_tokenizer: Any) -> tuple[LLTokenizer, LLTokenizer, int]:
    """Ours, llguidance's, and for how many tokens."""
    size, end = len(hf_tokenizer) + UNUSED, len(hf_tokenizer) - 1
    ours = make_grammar_tokenizer(hf_tokenizer, size, {end, 0})
    return ours, from_tokenizer(hf_tokenizer, n_vocab=size, eos_token=[0, end]), size


@pytest.mark.parametrize("is_tiny", [True, False])
def test_every_token_stands_for_the_same_and_texts_are_cut_alike(
    tiny_base: Path, *, is_tiny: bool
) -> None:
    ours, theirs, size = both(from_tiny(tiny_base) if is_tiny else from_bytes())
    for token in range(size):
        assert ours.dbg_tokens([token]) == theirs.dbg_tokens([token])
        assert ours.decode_bytes([token]) == theirs.decode_bytes([token])
        assert ours.is_special_token(token) == theirs.is_special_token(token), token
    assert ours.eos_tokens == theirs.eos_tokens
    assert ours.is_canonical == theirs.is_canonical
    for text in TEXTS:
        assert ours.tokenize_str(text) == theirs.tokenize_str(text)
        cut = text.encode()[:-1]
        assert ours.tokenize_bytes(cut) == theirs.tokenize_bytes(cut)


@pytest.mark.parametrize("is_tiny", [True, False])
def test_the_same_tokens_are_allowed(tiny_base: Path, *, is_tiny: bool) -> None:
    ours, theirs, _ = both(from_tiny(tiny_base) if is_tiny else from_bytes())
    mine, other = LLMatcher(ours, SCHEMA), LLMatcher(theirs, SCHEMA)
    for token in theirs.tokenize_str('{"ab": ["诗", 1.5, {"é": null}]}'):
        assert mine.compute_bitmask() == other.compute_bitmask()
        assert mine.compute_ff_tokens() == other.compute_ff_tokens()
        assert mine.consume_token(token)
        assert other.consume_token(token)
    assert mine.compute_bitmask() == other.compute_bitmask()


def test_a_tokenizer_of_another_kind_is_left_to_llguidance(monkeypatch: pytest.MonkeyPatch) -> None:
    left: list[Any] = []
    monkeypatch.setattr(grammar_tokens, "from_tokenizer", lambda given, **_: left.append(given))  # pyright: ignore
    other = from_bytes(decoders.Metaspace())
    make_grammar_tokenizer(other, 300, {1})
    assert left == [other]
    make_grammar_tokenizer("no fast one", 300, {1})
    assert left == [other, "no fast one"]


def test_a_tokenizer_that_cannot_be_known_is_refused() -> None:
    with pytest.raises(ValueError, match="fast tokenizers"):
        make_grammar_tokenizer("no fast one", 300, {1})
