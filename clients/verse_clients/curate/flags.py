"""Finds what is odd about poems, beside the window: nearly the same ones, copies, cut-off ones."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from verse import verdicts
from verse.records import Poem
from verse.similarity import CopyIndex, NearDuplicates
from verse_clients.curate.slots import Flag
from verse_clients.decisions import SourceError
from verse_clients.decisions.sources import Item

MIN_RUN = 8
"""A shared run of this many characters is shown; shorter ones are the language's own."""


class Inspector:
    """Looks at poems in the order they come; keep one, so that new poems meet the old ones."""

    def __init__(self, training: Iterable[Poem] = ()) -> None:
        """Know the training poems that must not be copied."""
        self._copies = CopyIndex(MIN_RUN)
        self._seen = NearDuplicates()
        for poem in training:
            self._copies.add(f"《{poem.theme}》", poem.text)

    def flags(self, items: Iterable[Item]) -> Iterator[tuple[str, Flag]]:
        """Each flag with the id of its poem."""
        for item in items:
            yield from ((item.id, flag) for flag in self._cut(item))
            yield from self._twins(item)
            yield from ((item.id, flag) for flag in self._copy(item))

    def _cut(self, item: Item) -> Iterator[Flag]:
        if item.candidate.finish_reason == "length":
            yield Flag("cut")

    def _twins(self, item: Item) -> Iterator[tuple[str, Flag]]:
        twin = self._seen.add(item.id, item.candidate.text)
        if twin is not None:
            yield item.id, Flag("near", twin.key, twin.ratio)
            yield twin.key, Flag("near", item.id, twin.ratio)

    def _copy(self, item: Item) -> Iterator[Flag]:
        copy = self._copies.find(item.candidate.text)
        if copy is not None:
            yield Flag("copy", copy.source, copy.share, copy.run)


def read_training(paths: Iterable[Path]) -> list[Poem]:
    """Read the poet's own poems.

    Raises:
        SourceError: a file is missing or holds no poems.
    """
    poems: list[Poem] = []
    for path in paths:
        try:
            poems.extend(verdicts.read(path, msgspec.json.Decoder(Poem)))
        except OSError as error:
            raise SourceError(f"{path} cannot be read: {error.strerror}.") from error
    return poems
