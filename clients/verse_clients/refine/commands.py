"""What `filter`, `convert` and `compare` do on files: read, decide elsewhere, write, and report.

The reports are Markdown, the same for the same input.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from verse.poem_split import PoemSplit, read_split
from verse.records import Candidate, Decision, Poem
from verse.replay import Replay
from verse.terminal import counted
from verse_clients.decisions.original_list import lists_among, seed_list
from verse_clients.decisions.sources import read_decisions
from verse_clients.errors import InputError
from verse_clients.generate.inputs import read_candidates
from verse_clients.measures import first_line
from verse_clients.refine import compare
from verse_clients.refine.convert import ConversionResult, RefusedPoem, ShareLimits, convert
from verse_clients.refine.files import (
    lines,
    read_poems,
    write_additional,
    write_file,
    write_next_set,
)
from verse_clients.screening import Finding, Guard, Limits, Reason, round_screen


class PoetFiles(msgspec.Struct, frozen=True, kw_only=True):
    """Where the poet's own poems are."""

    poems: Path
    split: Path | None
    """Which of them are measured with; None if that is not to be looked at."""


def run_filter(
    source: Path, output: Path, poets: PoetFiles, decided: Sequence[Path], limits: Limits
) -> str:
    """Leave out poems that could not be learned; returns what was left out, in words.

    Raises:
        UserError: a file is missing, holds something else, or cannot be written.
    """
    training, valid = _parts(poets)
    known = [e.candidate for e in read_decisions(decided) if isinstance(e, Decision)]
    filtered = _filter_candidates(
        read_candidates(source), Guard(training, valid, limits), known, limits.ratio
    )
    if not filtered.kept:
        raise InputError(f"No poem of {source} is left:\n{_filter_summary(filtered)}")
    text = _filter_summary(filtered)
    write_file(output, lines(filtered.kept))
    write_file(output.with_suffix(".md"), text.encode())
    return text


def run_convert(
    decisions: Sequence[Path],
    output: Path,
    folder: Path | None,
    poets: PoetFiles,
    shares: ShareLimits,
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
            f"There are no decisions in {', '.join(map(str, decisions))}; nothing was written."
        )
    poems = read_poems([poets.poems])
    result = convert(entries, poems, split, shares, limits)
    text = conversion_summary(result, shares)
    pairs = output.with_name(output.stem.removesuffix("_poems") + "_pairs.jsonl")
    write_additional(result, output, pairs)
    if folder is not None:
        write_next_set(result, split, folder)
    if list_file is not None:
        write_file(list_file, seed_list(Replay(entries).verdicts(), lists_among(decisions)))
    write_file(output.with_suffix(".md"), text.encode())
    return text


def run_compare(
    sides: Sequence[Path], output: Path, numbers: Path, poets: PoetFiles, adapters: Path
) -> str:
    """Mix the poems of several adapters for a blind look; returns the figures, in words.

    Raises:
        UserError: a file is missing, holds something else, or cannot be written.
    """
    training, _ = _parts(poets)
    poems = {_name(path, side): side for path in sides if (side := read_candidates(path))}
    if len(poems) < 2:
        raise InputError(
            "These files hold poems of fewer than two adapters; name one file for each."
        )
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
        f"\n{unmatched} of {counted(total, 'poem')} have no counterpart of the same theme, "
        "variant, sampling and seed, so these figures are partly chance; `verse generate "
        "--common-seeds` gives all adapters the same seeds.\n"
    )


def _name(path: Path, side: Sequence[Candidate]) -> str:
    names = {candidate.adapter or "base" for candidate in side}
    if len(names) > 1:
        raise InputError(f"{path} should hold poems of one adapter, not of {len(names)}.")
    return names.pop()


def _split(poets: PoetFiles) -> PoemSplit | None:
    if poets.split is None:
        return None
    split = read_split(poets.split)
    if split is None:
        raise InputError(
            f"{poets.split} is missing, so it is not known which poems validate; run "
            "`verse data split` first, or pass --without-split."
        )
    return split


def _parts(poets: PoetFiles) -> tuple[list[Poem], list[Poem]]:
    originals = [poem for poem in read_poems([poets.poems]) if poem.origin == "poet"]
    split = _split(poets)
    return split.parts(originals) if split else (originals, [])


class _Filtered(NamedTuple):
    """What stays, and what does not and why, each in the order it came."""

    kept: list[Candidate]
    left: list[tuple[Candidate, Finding]]


def _filter_candidates(
    candidates: Iterable[Candidate], guard: Guard, known: Iterable[Candidate], max_ratio: float
) -> _Filtered:
    """Leave out what is cut off, copied, or nearly another poem.

    Args:
        candidates: What models wrote.
        guard: Knows the poet's poems.
        known: Poems that were decided in earlier rounds.
        max_ratio: Edit ratio from which two poems are nearly the same, 0 to 1.
    """
    screen = round_screen(guard, max_ratio)
    for candidate in known:
        screen.know(f"a poem decided before, 《{candidate.theme}》", candidate.text)
    filtered = _Filtered([], [])
    for candidate in candidates:
        why = screen.find(candidate, f"《{candidate.theme}》 {candidate.id}")
        if why is None:
            filtered.kept.append(candidate)
        else:
            filtered.left.append((candidate, why))
    return filtered


def _filter_summary(filtered: _Filtered) -> str:
    """What was left out, and why, as Markdown."""
    counts: Counter[Reason] = Counter(why.reason for _, why in filtered.left)
    lines = [f"# {counted(len(filtered.kept), 'poem')} kept", ""]
    lines += [
        f"- {counts[kind]} left out: {reason}" for kind, reason in REASONS.items() if counts[kind]
    ]
    lines += [""] + [
        f"- 《{candidate.theme}》 {candidate.id}: {because(why)}"
        for candidate, why in filtered.left
    ]
    return "\n".join(lines).rstrip() + "\n"


REASONS: dict[Reason, str] = {
    "empty": "no text",
    "thought": "a tag of a model's thinking in it",
    "truncated": "cut off by the token limit",
    "leak": "too close to a poem of the valid set",
    "copy": "copied from a poem of the training set",
    "near": "nearly the same as another poem",
    "opening": "an opening line that has reached its share",
    "share": "more than the share of model-written poems allows",
}


def conversion_summary(result: ConversionResult, shares: ShareLimits) -> str:
    """The whole report, as Markdown."""
    return "\n".join([*_taken(result, shares), *_left_out(result.refused), *_pairs(result)])


def because(why: Finding) -> str:
    """One reason with its evidence."""
    if why.run:
        return f"{len(why.run)} characters are from {why.other}: {why.run}"
    if why.other and why.ratio:
        return f"{why.ratio:.0%} like {why.other}"
    if why.other:
        return f"like {why.other}"
    return REASONS[why.reason]


def _taken(result: ConversionResult, shares: ShareLimits) -> list[str]:
    origins = Counter(poem.origin for poem in result.additional)
    return [
        "# What the next training set takes",
        "",
        f"- {counted(len(result.training), 'poem')} of the poet to learn from, "
        f"{len(result.valid)} kept to measure with; all of them stay.",
        f"- {counted(len(result.additional), 'poem')} that models wrote: "
        f"{origins['accepted']} as they were, {origins['edited']} in the poet's version.",
        f"- They make up {result.synthetic_share:.1%} of what is learned; "
        f"at most {shares.max_synthetic:.1%} is allowed.",
        f"- {counted(result.num_rejected, 'poem')} rejected, {result.num_skipped} not decided.",
    ]


def _left_out(refused: Iterable[RefusedPoem]) -> list[str]:
    by_kind: dict[Reason, list[RefusedPoem]] = {kind: [] for kind in REASONS}
    for one in refused:
        by_kind[one.why.reason].append(one)
    lines: list[str] = []
    for kind, left_out in by_kind.items():
        if left_out:
            lines += ["", f"## Accepted but left out: {REASONS[kind]} ({len(left_out)})", ""]
            lines += [_line(one) for one in left_out]
    return lines


def _line(one: RefusedPoem) -> str:
    evidence = f": {because(one.why)}" if one.why.other else ""
    return f"- 《{one.poem.theme}》 {first_line(one.poem.text)} ({one.poem.source}){evidence}"


def _pairs(result: ConversionResult) -> list[str]:
    reasons = Counter(pair.reason for pair in result.pairs)
    lines = [
        "",
        f"## {counted(len(result.pairs), 'preference pair')}",
        "",
        f"- {reasons['edited']} of the poet's version over the model's",
        f"- {reasons['compared']} of poems compared side by side",
        f"- {reasons['accepted']} of an accepted poem over a rejected one on the same theme",
    ]
    for kind, number in sorted(result.refused_pairs.items()):
        lines.append(f"- {number} left out: {REASONS[kind]}")
    return [*lines, ""]
