"""How few tokens a text can have, told without tokenizing it.

Tokenizing a megabyte takes a second or more; to see that it cannot fit takes milliseconds. A token
stands for at most as many characters as the longest token has that holds them. So let each
character weigh 1 / (length of the longest token with that character in it): the characters of any
one token weigh at most 1 together, and a text has at least as many tokens as its characters weigh.

That holds where every character comes out of the tokenizer, in one token or another. What is known
to keep all characters is listed here; for any other tokenizer there is no bound. Characters that
may get lost or change on the way weigh nothing: those that the vocabulary does not have alone,
blanks where an added token swallows those around it, and with NFC those that could compose.

No mlx here.
"""

import math
from collections.abc import Iterable
from typing import Any, cast

import msgspec
import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer
from tokenizers.models import BPE
from transformers.convert_slow_tokenizer import bytes_to_unicode

_NUM_CODES = 0x20000
"""Characters from here on, the rarest ideographs, weigh nothing."""
_CHUNK_CHARS = 1 << 16
_META_SPACE = "▁"
_MARGIN = 1e-6
"""More than the additions can be off."""

_NFC_INERT = (
    *((0x0000, 0x02FF), (0x0400, 0x0482), (0x048A, 0x052F), (0x2010, 0x2027), (0x2030, 0x205E)),
    *((0x3000, 0x3029), (0x3030, 0x303F), (0x3041, 0x3096), (0x309D, 0x30FF), (0x3400, 0x4DB5)),
    *((0x4E00, 0x9FA5), (0xAC00, 0xD7A3), (0xFF01, 0xFF60), (0x1F300, 0x1F64F)),
)
"""NFC leaves one of these as it is where another one, or nothing, follows. Old blocks only, so that
every version of Unicode agrees."""

_Array = NDArray[Any]


class TokenBound:
    """A number of tokens that a text never falls below."""

    def __init__(self, weights: _Array, inert: _Array | None = None) -> None:
        """Take the tables.

        Args:
            weights: What each character weighs, of shape (_NUM_CODES,); the last one is 0.
            inert: Which characters weigh so only before another one of them; None for all.
        """
        self._weights = weights
        self._inert = inert

    def at_least(self, text: str, enough: int) -> int:
        """How many tokens `text` has at least, counted on until there are `enough`."""
        weight = 0.0
        for start in range(0, len(text), _CHUNK_CHARS):
            weight += self._weigh(text[start : start + _CHUNK_CHARS + 1])
            if weight > enough:
                break
        return max(0, math.ceil(weight - _MARGIN))

    def _weigh(self, text: str) -> float:
        """All characters but the one beyond the chunk, which is only looked at."""
        codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")
        weights = self._weights.take(codes, mode="clip")
        if self._inert is not None:
            inert = self._inert.take(codes, mode="clip")
            weights[:-1] *= inert[1:]
            weights *= inert
        return float(weights[:_CHUNK_CHARS].sum())


def make_token_bound(tokenizer: Tokenizer) -> TokenBound | None:
    """The bound of a tokenizer; None where none is known to hold.

    Two families have one: BPE over bytes (Qwen, Llama 3, GPT-2 and most others), and BPE over
    characters that falls back to bytes (Gemma, Llama 2, Mistral).
    """
    model: Any = tokenizer.model
    if not isinstance(model, BPE):
        return None
    normalizers, splitters = _steps(tokenizer.normalizer), _steps(tokenizer.pre_tokenizer)
    if not all(map(_splits_only, splitters)):
        return None
    kinds = {step["type"] for step in splitters}
    if "ByteLevel" in kinds:
        if "Metaspace" in kinds or any(step["type"] != "NFC" for step in normalizers):
            return None
        return TokenBound(_byte_weights(tokenizer), _inert_table() if normalizers else None)
    if model.byte_fallback and all(map(_marks_spaces_only, normalizers)):
        return TokenBound(_character_weights(tokenizer))
    return None


def _steps(step: object) -> list[dict[str, Any]]:
    """What a normalizer or a pre-tokenizer consists of, in order."""
    if step is None:
        return []
    return list(_flat(msgspec.json.decode(cast(Any, step).__getstate__())))


def _flat(step: dict[str, Any]) -> Iterable[dict[str, Any]]:
    parts = step.get("normalizers") or step.get("pretokenizers")
    if parts is None:
        yield step
    else:
        for part in parts:
            yield from _flat(part)


def _splits_only(step: dict[str, Any]) -> bool:
    """Whether a pre-tokenizer keeps every character, if it rewrites them."""
    match step["type"]:
        case "ByteLevel" | "Digits" | "UnicodeScripts":
            return True
        case "Split" | "Punctuation":
            return step["behavior"] != "Removed"
        case "Metaspace":
            return step["replacement"] == _META_SPACE
        case _:
            return False


def _marks_spaces_only(step: dict[str, Any]) -> bool:
    """Whether a normalizer adds and replaces nothing but the mark for a space."""
    match step["type"]:
        case "Prepend":
            return True
        case "Replace":
            return step["pattern"] == {"String": " "} and step["content"] == _META_SPACE
        case _:
            return False


def _byte_weights(tokenizer: Tokenizer) -> _Array:
    longest, alone = _longest_tokens(tokenizer.get_vocab(with_added_tokens=False))
    letters = np.array([ord(letter) for _, letter in sorted(bytes_to_unicode().items())])
    longest, alone = longest[letters], alone[letters]
    added = tokenizer.get_added_tokens_decoder().values()
    for content in (token.content.encode() for token in added):
        for byte in content:
            longest[byte] = max(longest[byte], len(content))
    per_byte = np.where(alone, 1 / np.maximum(longest, 1), 0.0)
    return _finished(_utf8_sums(per_byte), tokenizer)


def _character_weights(tokenizer: Tokenizer) -> _Array:
    vocabulary = tokenizer.get_vocab(with_added_tokens=False)
    longest, alone = _longest_tokens(vocabulary)
    for content in (token.content for token in tokenizer.get_added_tokens_decoder().values()):
        codes = [min(ord(character), _NUM_CODES - 1) for character in content]
        longest[codes] = np.maximum(longest[codes], len(content))
    if all(f"<0x{byte:02X}>" in vocabulary for byte in range(256)):
        alone[:] = True
    weights = np.where(alone, 1 / np.maximum(longest, 1), 0.0)
    weights[ord(" ")] = min(weights[ord(" ")], weights[ord(_META_SPACE)])
    return _finished(weights, tokenizer)


def _longest_tokens(vocabulary: Iterable[str]) -> tuple[_Array, _Array]:
    """For each character the length of the longest token with it, and whether it is one alone."""
    tokens = list(vocabulary)
    lengths = np.fromiter(map(len, tokens), np.int64, len(tokens))
    joined = "".join(tokens).encode("utf-32-le", "surrogatepass")
    codes = np.minimum(np.frombuffer(joined, "<u4"), _NUM_CODES - 1)
    spans = np.repeat(lengths, lengths)
    longest = np.zeros(_NUM_CODES, np.int64)
    np.maximum.at(longest, codes, spans)
    alone = np.zeros(_NUM_CODES, np.bool_)
    alone[codes[spans == 1]] = True
    return longest, alone


def _utf8_sums(per_byte: _Array) -> _Array:
    """What characters weigh whose bytes weigh so much."""
    code = np.arange(_NUM_CODES)
    last, second, third = (0x80 | (code >> shift & 0x3F) for shift in (0, 6, 12))
    one = per_byte[code & 0x7F]
    two = per_byte[0xC0 | (code >> 6 & 0x1F)] + per_byte[last]
    three = per_byte[0xE0 | (code >> 12 & 0x0F)] + per_byte[second] + per_byte[last]
    four = per_byte[0xF0 | code >> 18] + per_byte[third] + per_byte[second] + per_byte[last]
    return np.select([code < 0x80, code < 0x800, code < 0x10000], [one, two, three], four)


def _finished(weights: _Array, tokenizer: Tokenizer) -> _Array:
    added = tokenizer.get_added_tokens_decoder().values()
    if any(token.lstrip or token.rstrip for token in added):
        weights[[code for code in range(0x3001) if chr(code).isspace()]] = 0
    weights[-1] = 0
    return weights


def _inert_table() -> _Array:
    inert = np.zeros(_NUM_CODES, np.bool_)
    for first, last in _NFC_INERT:
        inert[first : last + 1] = True
    return inert
