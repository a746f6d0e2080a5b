"""Names that follow from content: the same poem has the same id on every machine."""

import hashlib
import unicodedata

import msgspec

_ID_DIGITS = 16  # 64 bits: two of a million poems meet with a chance of about 1 in 37 million


def content_id(*parts: str | int | None) -> str:
    """Hash the parts, in order, to 16 hex digits.

    Text counts as it reads: line ends, trailing spaces, blank lines around it and the Unicode form
    of a character make no difference.
    """
    as_read = [_as_read(part) if isinstance(part, str) else part for part in parts]
    # JSON keeps the parts apart: ("ab", "c") and ("a", "bc") differ.
    return hashlib.sha256(msgspec.json.encode(as_read)).hexdigest()[:_ID_DIGITS]


def _as_read(text: str) -> str:
    lines = unicodedata.normalize("NFC", text).splitlines()
    return "\n".join(line.rstrip() for line in lines).strip("\n")
