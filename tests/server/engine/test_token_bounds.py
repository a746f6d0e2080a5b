"""A text never has fewer tokens than its bound says, whatever the tokenizer and the text."""

import unicodedata
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

from tests.core.tokenizer import VERSE_TINY
from verse_server.engine import token_bounds
from verse_server.engine.token_bounds import TokenBound, make_token_bound

ENOUGH = 1_000_000
QWEN_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CORPUS = [
    "小河向东流，\n石头不说话。\n" * 30,
    "the river, the river, and the other river " * 30,
    *(" " * n for n in (1, 2, 4, 8, 16, 32, 64, 128) for _ in range(9)),
    "===============\n\n\n\n" * 20,
    "e\u0301a\u0308 \u1e2b\ufb01 각 \U0001f600\U00029e3d" * 9,
]


def verse_tiny() -> Tokenizer:
    return Tokenizer.from_file(str(VERSE_TINY / "tokenizer.json"))


def qwen_like() -> Tokenizer:
    """Bytes behind NFC and Qwen's own pattern; its longest tokens are 128 blanks."""
    made = Tokenizer(models.BPE())
    made.normalizer = normalizers.NFC()
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN_SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=1200, min_frequency=2, initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator(CORPUS, trainer)
    made.add_special_tokens([AddedToken("<|im_start|>"), AddedToken("<|im_end|>")])
    return made


def gemma_like() -> Tokenizer:
    """Characters, and bytes where it has none; blanks are marked, and the padding swallows some."""
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    words = ["▁", "▁▁", "▁▁▁▁", "a", "b", "ab", "▁ab", "河", "水", "河水"]
    vocabulary = {token: index for index, token in enumerate([*bytes_, *words])}
    merges = [("▁", "▁"), ("▁▁", "▁▁"), ("a", "b"), ("▁", "ab"), ("河", "水")]
    made = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, byte_fallback=True))
    made.normalizer = normalizers.Replace(" ", "▁")
    made.add_tokens([AddedToken("[pad]", lstrip=True, normalized=False)])
    return made


TOKENIZERS = {"verse-tiny": verse_tiny(), "qwen": qwen_like(), "gemma": gemma_like()}
BOUNDS = {name: make_token_bound(tokenizer) for name, tokenizer in TOKENIZERS.items()}


def bound_of(name: str) -> TokenBound:
    bound = BOUNDS[name]
    assert bound is not None
    return bound


PIECES = st.one_of(
    st.text(max_size=8),
    st.text("ab 河水，\n e\u0301\u0327\u1100\u1161\u11a8\u212b\u2126\uff21=", max_size=40),
    st.sampled_from(
        [" " * 130, "\n" * 70, "<|im_start|>", "<|im_end|>", "[pad]", "river", "=" * 15]
    ),
    st.sampled_from(CORPUS),
)
TEXTS = st.lists(PIECES, max_size=6).map("".join)


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=60, deadline=None)
@given(text=TEXTS)
@example(text=" " * 1000 + "[pad]" + " " * 1000)
@example(text="\u212b\u0301" * 500)
@example(text="\u1100\u1161\u11a8" * 300)
@example(text="e\u0301" * 300)
def test_a_text_has_no_fewer_tokens_than_the_bound(name: str, text: str) -> None:
    tokenizer = TOKENIZERS[name]
    bound = bound_of(name)
    text = text.encode("utf-8", "ignore").decode()
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    assert bound.at_least(text, ENOUGH) <= len(ids)


@pytest.mark.parametrize("name", TOKENIZERS)
def test_every_token_of_the_vocabulary_alone_counts_as_one_at_most(name: str) -> None:
    tokenizer = TOKENIZERS[name]
    bound = bound_of(name)
    for token_id in range(tokenizer.get_vocab_size()):
        text = tokenizer.decode([token_id], skip_special_tokens=False)
        if "\N{REPLACEMENT CHARACTER}" not in text:
            assert bound.at_least(text, ENOUGH) <= max(
                1, len(tokenizer.encode(text, add_special_tokens=False).ids)
            )


@pytest.mark.parametrize(
    ("name", "text", "share"),
    [
        ("verse-tiny", " " * 100_000, 1.0),
        ("verse-tiny", "小河向东流，" * 10_000, 0.3),
        ("qwen", " " * 128_000, 1.0),
        ("qwen", "小河向东流，\n" * 10_000, 0.05),
        ("gemma", " " * 100_000, 0.0),
        ("gemma", "龘" * 10_000, 0.3),
    ],
)
def test_the_bound_is_worth_something(name: str, text: str, share: float) -> None:
    bound = bound_of(name)
    num_tokens = len(TOKENIZERS[name].encode(text, add_special_tokens=False).ids)
    assert bound.at_least(text, ENOUGH) >= share * num_tokens


def test_counting_ends_where_there_is_enough() -> None:
    bound = bound_of("verse-tiny")
    assert 512 < bound.at_least(" " * 1_000_000, 512) < 100_000


def test_it_counts_across_its_chunks_as_within_them(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "river e\u0301 河 " * 40
    bound = bound_of("qwen")
    whole = bound.at_least(text, ENOUGH)
    for size in (1, 2, 3, 7):
        monkeypatch.setattr(token_bounds, "_CHUNK_CHARS", size)
        assert bound.at_least(text, ENOUGH) == whole


def without_a_bound() -> dict[str, Tokenizer]:
    """Each loses or changes characters in a way that no weight can tell."""
    word = Tokenizer(models.WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]"))
    lower, removing, compatible = qwen_like(), qwen_like(), qwen_like()
    replacing, no_fallback = gemma_like(), Tokenizer(models.BPE(vocab={"a": 0}, merges=[]))
    changed: list[tuple[Any, str, Any]] = [
        (lower, "normalizer", normalizers.Lowercase()),
        (compatible, "normalizer", normalizers.NFKC()),
        (
            removing,
            "pre_tokenizer",
            pre_tokenizers.Sequence(
                [pre_tokenizers.Split(" ", "removed"), pre_tokenizers.ByteLevel()]
            ),
        ),
        (replacing, "normalizer", normalizers.Replace("aa", "a")),
    ]
    for tokenizer, step, value in changed:
        setattr(tokenizer, step, value)
    return {
        "word": word,
        "lower": lower,
        "compatible": compatible,
        "removing": removing,
        "replacing": replacing,
        "no fallback": no_fallback,
    }


@pytest.mark.parametrize(("name", "tokenizer"), without_a_bound().items())
def test_a_tokenizer_that_may_lose_characters_has_no_bound(name: str, tokenizer: Tokenizer) -> None:
    assert make_token_bound(tokenizer) is None, name


def test_what_is_called_inert_is_left_alone_by_nfc() -> None:
    second = {
        parts[1]
        for code in range(0x110000)
        if len(parts := unicodedata.decomposition(chr(code)).split()) == 2 and "<" not in parts[0]
    }
    vowels_and_finals = [*range(0x1161, 0x1176), *range(0x11A8, 0x11C3)]
    follows = {int(code, 16) for code in second} | set(vowels_and_finals)
    for first, last in token_bounds._NFC_INERT:  # pyright: ignore[reportPrivateUsage]
        for code in range(first, last + 1):
            assert unicodedata.combining(chr(code)) == 0
            assert unicodedata.is_normalized("NFC", chr(code))
            assert code not in follows
