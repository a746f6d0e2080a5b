"""A base's tokenizer as llguidance wants it: the bytes of every token, and a way to encode.

llguidance makes both itself from a tokenizer of Hugging Face, by a copy of it that it keeps: 75 MB
and a second more for a vocabulary of 150,000. The copy of a byte-level tokenizer can be spared,
because its vocabulary spells every byte as one character, and encoding is what the tokenizer that
is there can do. Any other kind is left to llguidance.
"""

from collections.abc import Collection
from typing import Any, NamedTuple, cast

from llguidance import LLTokenizer
from llguidance.hf import from_tokenizer
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel
from transformers import PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import bytes_to_unicode


def make_grammar_tokenizer(
    hf_tokenizer: Any, vocab_size: int, end_tokens: Collection[int]
) -> LLTokenizer:
    """Make it; takes a while.

    Args:
        hf_tokenizer: Of the base.
        vocab_size: Logits per token; a few may belong to no token.
        end_tokens: Those that end an answer.

    Raises:
        ValueError: there is no way to know its tokens.
    """
    ends = sorted(end_tokens)
    if not isinstance(hf_tokenizer, cast(type, PreTrainedTokenizerFast)):
        return from_tokenizer(hf_tokenizer, n_vocab=vocab_size, eos_token=ends)
    rust = cast(Tokenizer, hf_tokenizer.backend_tokenizer)
    tokens = _bytes_of_all(rust, vocab_size) if isinstance(rust.decoder, ByteLevel) else None
    if tokens is None or not ends:
        return from_tokenizer(hf_tokenizer, n_vocab=vocab_size, eos_token=ends)
    given = _GivenTokenizer(rust, tokens, ends[0])
    made = LLTokenizer(cast(Any, given), n_vocab=vocab_size, eos_token=ends)
    given.tokens = ()  # copied by now, and `given` stays to encode
    return made


class _GivenTokenizer:
    """Has what `llguidance.TokenizerWrapper` has."""

    is_tokenizer_wrapper = True
    bos_token_id = None

    def __init__(self, rust: Tokenizer, tokens: tuple[bytes, ...], end_token: int) -> None:
        self._rust = rust
        self.tokens = tokens
        self.eos_token_id = end_token
        names = _added(rust)
        unused = (token for token in range(len(tokens)) if rust.id_to_token(token) is None)
        self.special_token_ids = [*(t for t, name in names.items() if name.is_special), *unused]

    def __call__(self, text: str) -> list[int]:
        return self._rust.encode_batch_fast([text], add_special_tokens=False)[0].ids


class _AddedToken(NamedTuple):
    """A token outside the vocabulary proper."""

    content: str
    is_special: bool
    """As llguidance sees it: what looks like a tag is no text."""


def _added(rust: Tokenizer) -> dict[int, _AddedToken]:
    found: dict[int, _AddedToken] = {}
    for token, what in rust.get_added_tokens_decoder().items():
        is_tag = what.content.startswith("<") and what.content.endswith(">")
        found[token] = _AddedToken(what.content, what.special or is_tag)
    return found


_BYTES = str.maketrans({letter: chr(byte) for byte, letter in bytes_to_unicode().items()})


def _bytes_of_all(rust: Tokenizer, vocab_size: int) -> tuple[bytes, ...] | None:
    """What each token adds to a text; None if the vocabulary does not spell bytes after all."""
    added = _added(rust)
    found: list[bytes] = []
    for token in range(vocab_size):
        if token in added:
            found.append(added[token].content.encode())
            continue
        if (name := rust.id_to_token(token)) is None:  # a row of the embedding that is not used
            found.append(f"<[{token}]>".encode())
            continue
        try:
            found.append(name.translate(_BYTES).encode("latin-1"))
        except UnicodeEncodeError:
            return None
    return tuple(found)
