"""The old adapter beside the new one: poems for a blind look, and what can be measured."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

import msgspec

from verse import jsonl
from verse.records import Candidate
from verse_clients.markdown import cell
from verse_clients.measures import Measures, ReferenceSet, equal_samples

_METRICS_FILE = "metrics.jsonl"


class Side(msgspec.Struct, frozen=True, kw_only=True):
    """One adapter."""

    name: str
    num_poems: int
    measures: Measures
    """Of as many poems as the other side has."""
    valid_loss: float | None = None
    """The best one, in nats per token; None where the adapter's folder does not say."""
    valid_step: int | None = None


class MetricsLine(msgspec.Struct, frozen=True, kw_only=True):
    """A line of the trainer's metrics; only those of the valid set have a loss."""

    event: str = ""
    step: int = 0
    valid_loss: float | None = None


_METRIC = msgspec.json.Decoder(MetricsLine)


def blind_order(sides: Iterable[Sequence[Candidate]]) -> list[Candidate]:
    """All poems by theme; within a theme nothing tells who wrote which.

    Ids are hashes of content, so their order is as good as chance, and the same every time.
    """
    poems = [candidate for side in sides for candidate in side]
    themes = {theme: place for place, theme in enumerate(dict.fromkeys(p.theme for p in poems))}
    return sorted(poems, key=lambda poem: (themes[poem.theme], poem.id))


def unmatched(sides: Collection[Sequence[Candidate]]) -> int:
    """How many poems nobody else was asked for alike: by theme, variant, sample, sampling and seed.

    0 where the adapters differ by their weights alone. A poem without a seed has no match.
    """
    asked = [{_asked(poem) for poem in side if poem.seed is not None} for side in sides]
    matched = set[object].intersection(*asked)
    return sum(_asked(poem) not in matched for side in sides for poem in side)


def sides(
    poems: Mapping[str, Sequence[Candidate]],
    training: Iterable[str],
    losses: Mapping[str, MetricsLine | None],
) -> list[Side]:
    """Measure each adapter; `losses` holds the best evaluation of those that have one."""
    reference = ReferenceSet(training)
    samples = equal_samples({name: [p.text for p in side] for name, side in poems.items()})
    return [_side(name, len(poems[name]), reference.measure(samples[name]), losses.get(name))
            for name in poems]  # fmt: skip


def best_evaluation(adapter: Path) -> MetricsLine | None:
    """The evaluation with the lowest valid loss; None if the folder records none."""
    try:
        found = [record for _, record in jsonl.scan(adapter / _METRICS_FILE, _METRIC)]
    except OSError:
        return None  # an adapter that another program trained
    measured = [
        (record.valid_loss, record)
        for record in found
        if not isinstance(record, jsonl.JsonlError) and record.valid_loss is not None
    ]
    return min(measured, key=lambda pair: pair[0])[1] if measured else None


def table(found: Sequence[Side]) -> str:
    """The sides as a Markdown table."""
    head = (
        "| adapter | poems | valid loss | copies | like the poet | distinct-3 | same first line |"
    )
    lines = [head, "|---|---|---|---|---|---|---|"]
    for side in found:
        loss = "?" if side.valid_loss is None else f"{side.valid_loss:.3f} @{side.valid_step}"
        of = side.measures
        lines.append(
            f"| {cell(side.name)} | {side.num_poems} | {loss} | {of.copy_rate:.1%} "
            f"| {of.similarity:.1%} | {of.diversity.distinct_3:.3f} "
            f"| {of.diversity.commonest_first_line_share:.1%} |"
        )
    return "\n".join(lines) + "\n"


def _asked(poem: Candidate) -> object:
    return poem.theme, poem.variant, poem.sample, poem.sampling, poem.seed


def _side(name: str, num_poems: int, measures: Measures, best: MetricsLine | None) -> Side:
    return Side(
        name=name,
        num_poems=num_poems,
        measures=measures,
        valid_loss=best.valid_loss if best else None,
        valid_step=best.step if best else None,
    )
