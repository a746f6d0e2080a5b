"""The journal of `verse curate` as a file of poems: those that were decided about, as decided."""

from collections.abc import Mapping
from pathlib import Path

import msgspec

from verse.poem_files.pieces import Draft, Found, Refused, piece_of
from verse.records import Decision, JournalEntry
from verse.replay import Replay, ReplayError, final_text
from verse.verdicts import Reading, Verdict

_DECODER = msgspec.json.Decoder(JournalEntry)
_VERDICTS: Mapping[str, Verdict] = {
    "accept": "accepted",
    "edit": "edited",
    "reject": "rejected",
    "skip": "undecided",
}


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
            entry = _DECODER.decode(line)
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
