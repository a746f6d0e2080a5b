"""What `verse data` prints: readable on a terminal, or JSON for machines."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import msgspec

from verse.poem_files import counted_kind
from verse.records import Poem
from verse.terminal import console, show, show_json, show_line
from verse_trainer.data_set.checks import CheckReport, Kind, Problem
from verse_trainer.data_set.importing import (
    Doubt,
    FileFound,
    ImportReport,
    Survey,
    left_whole,
    sentence_of,
)
from verse_trainer.data_set.splitting import SplitReport

_MAX_NAMED = 10
"""Places of one kind that are named unless all are asked for."""
_MAX_REFUSED = 50
_MAX_SAMPLES = 3
"""Poems of a file that are shown before it is imported."""
_MAX_LEFT = 4
_MAX_SHOWN = 40

_HEADINGS: dict[Kind, str] = {
    "other_format": "not poems or rows that can be read",
    "rejected": "rejected, or not decided on",
    "empty": "empty",
    "too_long": "too long to be learned whole",
    "leak": "in training and in validation at once",
    "duplicate": "the same poem twice",
    "near_duplicate": "nearly the same poem",
    "several_themes": "one poem under several themes",
    "hard_characters": "characters without a token of their own",
    "unreached": "rows mlx_lm.lora would never reach",
    "held_back": "poems the frozen split keeps from training",
    "unsplit": "poems added since the last split",
    "left_out": "rejected or not decided on, so not imported",
    "unknown_verdict": "keys that may say a poem was rejected",
}


def print_found(found: Survey) -> None:
    """What was found, a sentence for each file; of a folder or a zip file also how poems begin.

    What was refused goes to standard error.
    """
    for file in found.files:
        if not left_whole(file):
            _out(sentence_of(file))
            if found.is_mixed:
                _print_samples(file)
    by_kind: dict[str, list[str]] = {}
    for file in found.files:
        if kind := left_whole(file):
            by_kind.setdefault(kind, []).append(str(file.path))
    for kind, paths in by_kind.items():
        more = f" and {len(paths) - _MAX_LEFT} more" if len(paths) > _MAX_LEFT else ""
        _out(f"left out, {kind}: {', '.join(paths[:_MAX_LEFT])}{more}")
    refused = found.refused
    for piece in refused[:_MAX_REFUSED]:
        _err(f"refused: {piece}")
    if len(refused) > _MAX_REFUSED:
        _err(f"and {len(refused) - _MAX_REFUSED} more refused.")


def print_doubt(doubt: Doubt) -> None:
    """What is asked about, with the beginning of its first texts."""
    count = counted_kind(len(doubt.pieces), "texts")
    _out(f"{doubt.path}:{doubt.pieces[0].line}: {count}, because {doubt.why}:")
    for piece in doubt.pieces[:_MAX_SAMPLES]:
        _out(_sample(piece.poem))


def print_left(doubts: Sequence[Doubt]) -> None:
    """How to take what was left out because nobody said yes to it."""
    num_texts = sum(len(doubt.pieces) for doubt in doubts)
    if num_texts:
        _out(f"{counted_kind(num_texts, 'texts')} left out; `--doubtful` takes such texts.")


def print_import(report: ImportReport) -> None:
    """What the file of poems holds now; to standard error, what no import could be sure of."""
    for doubt in report.doubts:
        _err(f"warning: {doubt}")
    if not report.num_read:
        return
    if report.kept_aside:
        what = "Verse's sample poems are" if report.was_sample else "The previous file is"
        _out(f"{what} now {report.kept_aside}.")
    known = report.num_read - report.num_new
    already = f", {known} there already" if known else ""
    new = counted_kind(report.num_new, "new poems")
    _out(f"{report.output}: {new}{already}; {report.num_after} in all.")
    if report.num_before and report.num_new:
        _out("`--replace` starts a new file and keeps the old one beside it.")


def print_split(report: SplitReport, poems: Path, asked: tuple[float, int]) -> None:
    """How the poems were parted, and what became of those that are in neither part."""
    parts = report.parts
    num_train, num_valid = len(parts.train), len(parts.valid)
    share = num_valid / (num_train + num_valid + len(parts.left_out))
    train = counted_kind(num_train, "poems")
    _out(f"{poems}: {train} for training, {num_valid} for validation ({share:.0%}).")
    if report.was_frozen:
        _out("split.json is frozen: poems added since then go into training.")
        if asked != (report.split.share, report.split.seed):
            _out("--share and --seed had no effect; move split.json away to draw a new split.")
    else:
        _out("split.json keeps this split for all rounds.")
    if report.num_repeated:
        _out(f"The file repeats {counted_kind(report.num_repeated, 'poems')}; each is taken once.")
    if report.num_gone:
        _out(f"The file no longer has {counted_kind(report.num_gone, 'validation poems')}.")
    for poem, near in parts.left_out:
        _out(f"Left out, too much like a validation poem: {_named(poem)}, like {_named(near)}.")
    for path in report.kept_aside:
        _out(f"A file that was not written by a split is now {path}.")


def print_check(report: CheckReport, *, show_all: bool) -> None:
    """A readable summary: counts, then problems by kind, errors first."""
    for path, count in report.num_entries.items():
        _out(f"{path}: {counted_kind(count, 'poems')}")
    _out(f"A row may have up to {report.limit} tokens with {report.model}.")
    for kind, heading in _HEADINGS.items():
        _print_kind(heading, [p for p in report.problems if p.kind == kind], show_all)
    num_warnings = len(report.problems) - report.num_errors
    if not report.problems:
        _out("No problems found.")
    else:
        _out(f"\nErrors: {report.num_errors}, warnings: {num_warnings}.")


def print_json(report: CheckReport) -> None:
    """One object: files, limit, problems with kind, severity, path, line and message."""
    problems = [
        {"severity": "error" if p.is_error else "warning", **msgspec.structs.asdict(p)}
        for p in report.problems
    ]
    machine = {
        "files": report.num_entries,
        "model": report.model,
        "max_tokens": report.limit,
        "num_errors": report.num_errors,
        "num_warnings": len(problems) - report.num_errors,
        "problems": problems,
    }
    show_json(machine)


def _print_samples(file: FileFound) -> None:
    poems = [piece.poem for piece in file.taken]
    for poem in poems[:_MAX_SAMPLES]:
        _out(_sample(poem))
    if len(poems) > _MAX_SAMPLES:
        _out(f"    and {len(poems) - _MAX_SAMPLES} more")
    authors = Counter(poem.author for poem in poems if poem.author)
    dates = sum(bool(poem.date) for poem in poems)
    said = [f"{author} ({count})" for author, count in authors.most_common(_MAX_SAMPLES)]
    if said or dates:
        by = f"by {', '.join(said)}" if said else ""
        dated = counted_kind(dates, "with its date") if dates == 1 else f"{dates} with their dates"
        _out(f"    {', '.join(part for part in (by, dated if dates else '') if part)}")


def _sample(poem: Poem) -> str:
    first = next((line for line in poem.text.split("\n") if line.strip()), "")
    return f"    {_cut(poem.theme)}: {_cut(first.strip())}"


def _cut(text: str) -> str:
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}…"


def _print_kind(heading: str, problems: Sequence[Problem], show_all: bool) -> None:
    if not problems:
        return
    is_error = problems[0].is_error
    label, style = ("Error", "bold red") if is_error else ("Warning", "bold yellow")
    _out(f"\n{label}: {heading} ({len(problems)})", style)
    named = problems if show_all else problems[:_MAX_NAMED]
    for problem in named:
        _out(f"  {problem}")
    if len(problems) > len(named):
        _out(f"  and {len(problems) - len(named)} more; `--all` names them.")


def _named(poem: Poem) -> str:
    return f"{poem.theme!r} ({poem.source or poem.id})"


def _out(text: str, style: str | None = None) -> None:
    show_line(console(), text, style)


def _err(text: str) -> None:
    show(text, stderr=True)
