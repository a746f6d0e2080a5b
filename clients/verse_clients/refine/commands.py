"""What `filter`, `convert` and `compare` do on files: read, decide elsewhere, write, and report."""

from collections.abc import Collection, Sequence
from pathlib import Path

import msgspec

from verse.poem_split import PoemSplit, read_split
from verse.records import Candidate, Decision, Poem
from verse_clients.decisions import seed_list
from verse_clients.decisions.journal import Replay
from verse_clients.decisions.sources import read_decisions
from verse_clients.errors import InputError
from verse_clients.refine import compare, filtering, wording
from verse_clients.refine.convert import convert
from verse_clients.refine.inputs import read_candidates, read_poems
from verse_clients.refine.next_set import lines, write_additional, write_file, write_next_set
from verse_clients.refine.selection import Shares
from verse_clients.screening import Guard, Limits


class PoetsFiles(msgspec.Struct, frozen=True, kw_only=True):
    """Where the poet's own poems are."""

    poems: Path
    split: Path | None
    """Which of them are measured with; None if that is not to be looked at."""


def run_filter(
    source: Path, output: Path, poets: PoetsFiles, decided: Sequence[Path], limits: Limits
) -> str:
    """Leave out poems that could not be learned; returns what was left out, in words.

    Raises:
        UserError: a file is missing, holds something else, or cannot be written.
    """
    training, valid = _parts(poets)
    known = [e.candidate for e in read_decisions(decided) if isinstance(e, Decision)]
    filtered = filtering.filter_candidates(
        read_candidates(source), Guard(training, valid, limits), known, limits.ratio
    )
    if not filtered.kept:
        raise InputError(f"No poem of {source} is left:\n{filtering.summary(filtered)}")
    text = filtering.summary(filtered)
    write_file(output, lines(filtered.kept))
    write_file(output.with_suffix(".md"), text.encode())
    return text


def run_convert(
    decisions: Sequence[Path],
    output: Path,
    folder: Path | None,
    poets: PoetsFiles,
    shares: Shares,
    limits: Limits,
    list_file: Path | None,
) -> str:
    """Turn decisions into training files; returns what was taken and refused, in words.

    Raises:
        UserError: a file is missing, holds something else, or cannot be written.
    """
    entries, split = read_decisions(decisions), _split(poets)
    if not entries:
        raise InputError(
            f"No decision stands in {', '.join(map(str, decisions))}; nothing is written."
        )
    poems = read_poems([poets.poems])
    harvest = convert(entries, poems, split, shares, limits)
    text = wording.summary(harvest, shares)
    pairs = output.with_name(output.stem.removesuffix("_poems") + "_pairs.jsonl")
    write_additional(harvest, output, pairs)
    if folder is not None:
        write_next_set(harvest, split, folder)
    if list_file is not None:
        decided = [v for v in Replay(entries).verdicts() if v.action != "skip"]
        write_file(list_file, seed_list.encode(decided))
    write_file(output.with_suffix(".md"), text.encode())
    return text


def run_compare(
    sides: Sequence[Path], output: Path, numbers: Path, poets: PoetsFiles, adapters: Path
) -> str:
    """Mix the poems of several adapters for a blind look; returns the figures, in words.

    Raises:
        UserError: a file is missing, holds something else, or cannot be written.
    """
    training, _ = _parts(poets)
    poems = {_name(path, side): side for path in sides if (side := read_candidates(path))}
    if len(poems) < 2:
        raise InputError("There are not two adapters to compare in these files.")
    found = compare.sides(
        poems,
        [poem.text for poem in training],
        {name: compare.best_evaluation(adapters / name) for name in poems},
    )
    write_file(output, lines(compare.blind_order(poems.values())))
    write_file(numbers, msgspec.json.format(msgspec.json.encode(found), indent=1) + b"\n")
    return compare.table(found) + _chance(poems.values())


def _chance(sides: Collection[Sequence[Candidate]]) -> str:
    """A warning where the adapters were not asked alike."""
    unmatched, total = compare.unmatched(sides), sum(map(len, sides))
    if not unmatched:
        return ""
    return (
        f"\n{unmatched} of {total} poems have no counterpart of the same theme, variant, sampling "
        "and seed, so chance has a part in these figures; `verse generate --common-seeds` lets all "
        "adapters write alike.\n"
    )


def _name(path: Path, side: Sequence[Candidate]) -> str:
    names = {candidate.adapter or "base" for candidate in side}
    if len(names) > 1:
        raise InputError(f"{path} should hold poems of one adapter, not of {len(names)}.")
    return names.pop()


def _split(poets: PoetsFiles) -> PoemSplit | None:
    if poets.split is None:
        return None
    split = read_split(poets.split)
    if split is None:
        raise InputError(
            f"{poets.split} is missing, so nobody knows which poems are measured with; run "
            "`verse data split` first, or say --without-split."
        )
    return split


def _parts(poets: PoetsFiles) -> tuple[list[Poem], list[Poem]]:
    originals = [poem for poem in read_poems([poets.poems]) if poem.origin == "poet"]
    split = _split(poets)
    return split.parts(originals) if split else (originals, [])
