"""Verse's own rows: candidates, and decisions about them; and any piece of a file as a candidate.

A journal of `verse curate` is a file of poems: of those that were decided about, as decided.

A row of Verse's own is the candidate it was, id included. Of others the adapter, the checkpoint and
the place among the poems of one theme are known where the original project wrote them down.
"""

import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

import msgspec

from verse.poem_files.pieces import Draft, Found, LeftOut, Refused, Taken, piece_of
from verse.records import Candidate, Decision, JournalEntry
from verse.replay import Replay, ReplayError, final_text
from verse.verdicts import Reading, Verdict

_ENTRY = msgspec.json.Decoder(JournalEntry)
_VERDICTS: Mapping[str, Verdict] = {
    "accept": "accepted",
    "edit": "edited",
    "reject": "rejected",
    "skip": "undecided",
}
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


def is_entry(keys: Mapping[str, msgspec.Raw]) -> bool:
    """Whether a row with these keys is a line of a journal."""
    return "entry" in keys


def is_journal(content: bytes) -> bool:
    """Whether a file begins with an entry, or is blank: then it is a journal without one."""
    first = content.removeprefix(b"\xef\xbb\xbf").lstrip().split(b"\n", 1)[0]
    if not first or first.startswith(b'{"entry"'):
        return True  # also one that a kill cut off
    try:
        return is_entry(msgspec.json.decode(first, type=dict[str, msgspec.Raw]))
    except (msgspec.DecodeError, UnicodeDecodeError):
        return False


def read_entries(content: bytes, path: Path) -> list[Found]:
    """The poems that a journal is about, each once, by the last decision that stands."""
    replay = Replay()
    places: dict[int, tuple[int, bytes]] = {}
    refused: list[Found] = []
    lines = content.split(b"\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            entry = _ENTRY.decode(line)
            replay.apply(entry)
        except (msgspec.DecodeError, UnicodeDecodeError, ReplayError) as error:
            fault = "torn" if number == len(lines) else "other_format"
            problem = str(error).rstrip(".")
            refused.append(Refused(path=path, line=number, problem=problem, fault=fault))
        else:
            places[id(replay.entries[-1])] = (number, line)
    return [*(_piece(d, path, *places[id(d)]) for d in replay.verdicts()), *refused]


def _piece(decision: Decision, path: Path, number: int, line: bytes) -> Found:
    verdict = _VERDICTS[decision.action]
    reading = Reading(verdict=verdict, because=f"action: {decision.action}")
    draft = Draft(
        kind="decisions",
        theme=decision.candidate.theme,
        text=final_text(decision),
        source=decision.candidate.id,
        origin="edited" if verdict == "edited" else "accepted",
        row=line,
    )
    return piece_of(draft, path, number, reading)
