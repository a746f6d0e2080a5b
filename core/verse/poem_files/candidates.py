"""Pieces of a file as candidates: what a model wrote, with all that its row tells of how.

A row of Verse's own is the candidate it was, id included. Of others the adapter, the checkpoint and
the place among the poems of one theme are known where the original project wrote them down.
"""

import re
from pathlib import PurePosixPath

import msgspec

from verse.poem_files.pieces import Found, LeftOut, Taken
from verse.records import Candidate, Decision

_CHECKPOINT = re.compile(r"0*(\d+)_adapters\.safetensors")


class _Generated(msgspec.Struct, frozen=True, kw_only=True):
    checkpoint_path: str = ""
    prompt: str | None = None
    prompt_variant_index: int | None = None
    prompt_token: int | None = None
    generate_token: int | None = None


class _Listed(msgspec.Struct, frozen=True, kw_only=True):
    adaptor: str = ""
    inner_idx: int = 0
    image: str
    response: str


def candidate_of(piece: Found) -> Candidate | None:
    """What a model wrote, or may be taken for it; None where there is no row and no poem.

    Raises:
        msgspec.DecodeError: the row is Verse's own, and a value has the wrong type.
    """
    if not isinstance(piece, Taken | LeftOut):
        return None
    candidate = _of_row(piece)
    if candidate is None or "\r" not in candidate.text:
        return candidate
    # Windows line ends would look like changes in an editor; the id is the same either way.
    text = candidate.text.replace("\r\n", "\n").replace("\r", "\n")
    return msgspec.structs.replace(candidate, text=text)


def _of_row(piece: Taken | LeftOut) -> Candidate | None:
    keys = _keys(piece.row)
    if "entry" in keys:
        return msgspec.json.decode(piece.row, type=Decision).candidate
    if "candidate" in keys:
        return msgspec.json.decode(keys["candidate"], type=Candidate)
    if {"theme", "text"} <= keys.keys():
        return _own(keys)
    if {"image", "response"} <= keys.keys():
        listed = msgspec.json.decode(piece.row, type=_Listed, strict=False)
        return Candidate(
            theme=listed.image,
            text=listed.response,
            adapter=listed.adaptor or None,
            sample=max(listed.inner_idx, 0),
        )
    if piece.poem is None:
        return None
    if "checkpoint_path" in keys:
        return _generated(piece.row, theme=piece.poem.theme, text=piece.poem.text)
    return Candidate(theme=piece.poem.theme, text=piece.poem.text)


def _keys(row: bytes) -> dict[str, msgspec.Raw]:
    try:
        return msgspec.json.decode(row, type=dict[str, msgspec.Raw])
    except (msgspec.DecodeError, UnicodeDecodeError):
        return {}


def _own(keys: dict[str, msgspec.Raw]) -> Candidate:
    """A row with theme and text; a number that another program gave it is no id."""
    is_number = "id" in keys and not bytes(keys["id"]).startswith(b'"')
    kept = {key: value for key, value in keys.items() if not (is_number and key == "id")}
    return msgspec.json.decode(msgspec.json.encode(kept), type=Candidate)


def _generated(row: bytes, *, theme: str, text: str) -> Candidate:
    made = msgspec.json.decode(row, type=_Generated, strict=False)
    path = PurePosixPath(made.checkpoint_path.replace("\\", "/"))
    step = _CHECKPOINT.fullmatch(path.name)
    return Candidate(
        theme=theme,
        text=text,
        adapter=path.parent.name or None,
        checkpoint=int(step[1]) if step else None,
        sample=max((made.prompt_variant_index or 1) - 1, 0),
        prompt_tokens=made.prompt_token,
        completion_tokens=made.generate_token,
    )
