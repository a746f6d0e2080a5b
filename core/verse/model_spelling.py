"""How a request's `model` field names an adapter: `xuzhimo@200:0.7+hushi:0.3`."""

import re
from typing import Literal

import msgspec

BASE = "base"
"""Names the base model, whatever its own id is; no adapter is called so."""
MAX_PARTS = 64
MAX_STRENGTH = 100.0

# No control characters and no lone surrogates: what cannot be printed cannot be asked for.
_NAME_CHARACTER = r"[^@:+/\\\s\x00-\x1f\x7f\ud800-\udfff]"
_PART = re.compile(
    rf"(?P<name>(?!\.){_NAME_CHARACTER}{{1,255}})"
    r"(?:@(?P<checkpoint>[0-9]{1,9}|best|last))?"
    r"(?::(?P<strength>-?[0-9]+(?:\.[0-9]+)?))?"
)


class ModelSpellingError(ValueError):
    """The text is not a spelling of any model."""


class AdapterPart(msgspec.Struct, frozen=True):
    """One adapter, one of its checkpoints, and the strength it is applied with."""

    name: str
    checkpoint: int | Literal["best", "last"] | None = None
    """None means the published weights."""
    strength: float = 1.0

    @property
    def spelling(self) -> str:
        """The part without its strength: `xuzhimo@200`."""
        return self.name if self.checkpoint is None else f"{self.name}@{self.checkpoint}"


def parse_model(text: str) -> tuple[AdapterPart, ...]:
    """Split a spelling into its parts.

    Raises:
        ModelSpellingError: it is none; names hold no `@`, `:`, `+`, slash, space or leading dot.
    """
    pieces = text.split("+")
    if len(pieces) > MAX_PARTS:
        raise ModelSpellingError(f"A blend has at most {MAX_PARTS} parts.")
    return tuple(_parse_part(piece) for piece in pieces)


def is_adapter_name(name: str) -> bool:
    """Whether a folder of this name can be asked for."""
    match = _PART.fullmatch(name)
    return match is not None and match["name"] == name


def name_problem(name: str) -> str | None:
    """Why no adapter can be called so, in one sentence; None if one can."""
    if name == BASE:
        return f"{name!r} means the base model; choose another name."
    if is_adapter_name(name):
        return None
    return (
        f"{name!r} is not a valid adapter name: it must have 1 to 255 characters, no space, "
        "/, \\, @, : or +, and no dot in front."
    )


def _parse_part(piece: str) -> AdapterPart:
    match = _PART.fullmatch(piece)
    if match is None:
        raise ModelSpellingError(f"{piece!r} is not NAME, NAME@CHECKPOINT or NAME:STRENGTH.")
    strength = float(match["strength"] or 1.0)
    if abs(strength) > MAX_STRENGTH:
        raise ModelSpellingError(f"A strength is at most {MAX_STRENGTH:g}.")
    return AdapterPart(match["name"], _checkpoint(match["checkpoint"]), strength)


def _checkpoint(text: str | None) -> int | Literal["best", "last"] | None:
    if text is None or text == "best" or text == "last":
        return text
    return int(text)
