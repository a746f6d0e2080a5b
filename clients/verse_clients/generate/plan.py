"""The matrix theme x variant x adapter x checkpoint x sample, as a list of requests.

Pure: the same input gives the same plan, with the same seeds, whatever was written so far. What a
poem's record says of its making is its place in the plan, so the output file is all that a rerun
needs to know.
"""

from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

from verse.prompt import Message
from verse.records import Candidate, Sampling, content_id
from verse_clients.chat_prompts import Prompt, messages

_SEED_BITS = 31
_SOURCES_AT_ONCE = 8
"""Adapters in turn: fewer than a server keeps in memory, so that it loads each of them once."""

Checkpoint = int | Literal["best", "last"] | None
Key = tuple[str, str | None, Checkpoint, str | None, int, int | None, Sampling]
"""Theme, adapter, checkpoint, variant, sample, seed and sampling: one poem of a plan."""


class Source(NamedTuple):
    """Weights to ask: an adapter, one of its checkpoints, or the base."""

    model: str
    """How a request names them."""
    adapter: str | None = None
    """None for the base alone."""
    checkpoint: Checkpoint = None
    """None for the published weights."""


class Cell(NamedTuple):
    """One poem to be written."""

    source: Source
    theme: str
    variant: str | None
    sample: int
    seed: int
    sampling: Sampling

    @property
    def key(self) -> Key:
        """Its place in the plan."""
        source = self.source
        place = (self.theme, source.adapter, source.checkpoint, self.variant, self.sample)
        return (*place, self.seed, self.sampling)

    @property
    def messages(self) -> list[Message]:
        """What is sent; the system message is the adapter's own, which the server knows."""
        return messages(self.variant, self.theme)


def make_plan(
    themes: Sequence[str],
    sources: Sequence[Source],
    variants: Sequence[str | None],
    *,
    prompts: Sequence[Prompt] = (),
    num_samples: int,
    sampling: Sampling,
    seed: int,
    common_seeds: bool = False,
) -> list[Cell]:
    """All poems to be written, in the order they are asked for.

    A run that is stopped early has touched every theme: samples are the outermost count, within a
    few sources at a time.

    Args:
        themes: What to write on.
        sources: Who writes.
        variants: Ways to ask; None is the theme alone.
        prompts: Asked beside them, each with a theme and a way of its own.
        num_samples: Poems of each kind.
        sampling: How tokens are drawn.
        seed: Every poem's own one follows from it.
        common_seeds: Whether all sources draw by the same seeds, so that they differ by their
            weights alone: common random numbers.
    """
    seed_of = _common_seed if common_seeds else _seed
    asked = [*((theme, variant) for variant in variants for theme in themes), *prompts]
    return [
        Cell(
            source, theme, variant, sample, seed_of(seed, source, theme, variant, sample), sampling
        )
        for start in range(0, len(sources), _SOURCES_AT_ONCE)
        for sample in range(num_samples)
        for theme, variant in asked
        for source in sources[start : start + _SOURCES_AT_ONCE]
    ]


def key_of(poem: Candidate) -> Key:
    """The place in a plan that a record takes."""
    place = (poem.theme, poem.adapter, poem.checkpoint, poem.variant, poem.sample)
    return (*place, poem.seed, poem.sampling)


def missing(plan: Iterable[Cell], written: Iterable[Candidate]) -> list[Cell]:
    """What is still to be asked for."""
    there = {key_of(poem) for poem in written}
    return [cell for cell in plan if cell.key not in there]


def unexpected(plan: Iterable[Cell], written: Iterable[Candidate]) -> list[Candidate]:
    """Poems that the plan does not ask for."""
    asked = {cell.key for cell in plan}
    return [poem for poem in written if key_of(poem) not in asked]


def _seed(seed: int, source: Source, theme: str, variant: str | None, sample: int) -> int:
    """Follows from the cell alone: a larger plan asks its smaller part the same."""
    checkpoint = None if source.checkpoint is None else str(source.checkpoint)
    return _number(seed, source.adapter, checkpoint, theme, variant, sample)


def _common_seed(seed: int, _: Source, theme: str, variant: str | None, sample: int) -> int:
    """The same whoever writes."""
    return _number(seed, theme, variant, sample)


def _number(*parts: str | int | None) -> int:
    return int(content_id(*parts), 16) % 2**_SEED_BITS
