"""What a conversion or a filter took and left out, in plain words, the same for the same input."""

from collections import Counter
from collections.abc import Iterable

from verse_clients.measures import first_line
from verse_clients.refine.convert import Harvest, Refused
from verse_clients.refine.selection import Shares
from verse_clients.screening import Finding, Reason

REASONS: dict[Reason, str] = {
    "empty": "without text",
    "thought": "with a tag of a model's thinking in it",
    "truncated": "cut off by the token limit",
    "leak": "too near a poem of the valid set",
    "copy": "taken over from a poem of the training set",
    "near": "nearly the same as another poem",
    "opening": "beginning with a line that has its share",
    "share": "more than the share of model-written poems allows",
}


def summary(harvest: Harvest, shares: Shares) -> str:
    """The whole report, as Markdown."""
    return "\n".join([*_taken(harvest, shares), *_left_out(harvest.refused), *_pairs(harvest)])


def because(why: Finding) -> str:
    """One reason with its evidence."""
    if why.run:
        return f"{len(why.run)} characters are from {why.other}: {why.run}"
    if why.other and why.ratio:
        return f"{why.ratio:.0%} like {why.other}"
    if why.other:
        return f"like {why.other}"
    return REASONS[why.reason]


def counted(number: int, thing: str) -> str:
    """`1 poem`, `2 poems`."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def _taken(harvest: Harvest, shares: Shares) -> list[str]:
    origins = Counter(poem.origin for poem in harvest.additional)
    return [
        "# What the next training set takes",
        "",
        f"- {counted(len(harvest.training), 'poem')} of the poet to learn from, "
        f"{len(harvest.valid)} kept to measure with; all of them stay.",
        f"- {counted(len(harvest.additional), 'poem')} that models wrote: "
        f"{origins['accepted']} as they were, {origins['edited']} in the poet's version.",
        f"- They make up {harvest.synthetic_share:.1%} of what is learned; "
        f"at most {shares.max_synthetic:.1%} is allowed.",
        f"- {counted(harvest.num_rejected, 'poem')} rejected, {harvest.num_skipped} not decided.",
    ]


def _left_out(refused: Iterable[Refused]) -> list[str]:
    by_kind: dict[Reason, list[Refused]] = {kind: [] for kind in REASONS}
    for one in refused:
        by_kind[one.why.reason].append(one)
    lines: list[str] = []
    for kind, left_out in by_kind.items():
        if left_out:
            lines += ["", f"## Accepted and left out, since {REASONS[kind]}: {len(left_out)}", ""]
            lines += [_line(one) for one in left_out]
    return lines


def _line(one: Refused) -> str:
    evidence = f": {because(one.why)}" if one.why.other else ""
    return f"- 《{one.poem.theme}》 {first_line(one.poem.text)} ({one.poem.source}){evidence}"


def _pairs(harvest: Harvest) -> list[str]:
    reasons = Counter(pair.reason for pair in harvest.pairs)
    lines = [
        "",
        f"## {counted(len(harvest.pairs), 'preference pair')}",
        "",
        f"- {reasons['edited']} of the poet's version over the model's",
        f"- {reasons['compared']} of poems compared side by side",
        f"- {reasons['accepted']} of an accepted poem over a rejected one on the same theme",
    ]
    for kind, number in sorted(harvest.refused_pairs.items()):
        lines.append(f"- {number} left out with a poem {REASONS[kind]}")
    return [*lines, ""]
