"""The files a run starts from: poems to judge, examples of the poet's taste, weights."""

from collections.abc import Sequence
from pathlib import Path

import msgspec

from verse.records import Candidate, Poem
from verse.similarity import comparison_key
from verse_clients.decisions.sources import read_items
from verse_clients.errors import InputError
from verse_clients.generate.inputs import read_training
from verse_clients.judge.ranked import LearnedWeights, Use, Weights, read_json

MAX_EXAMPLES = 8


def read_poems(paths: Sequence[Path]) -> list[Candidate]:
    """Read the poems to judge, each once, in the order of the files.

    Raises:
        SourceError: a file is missing or holds no poems.
    """
    items = read_items(paths, with_empty=True)
    return list({item.id: item.candidate for item in items}.values())


def read_examples(path: Path | None) -> list[Poem]:
    """Read poems that show the poet's taste: so many as a prompt can bear.

    Raises:
        InputError: the file is missing or holds no poems.
    """
    return [] if path is None else read_training([path])[:MAX_EXAMPLES]


def read_weights(path: Path | None) -> LearnedWeights:
    """Read weights that `verse judge calibrate` learned, or that a hand wrote.

    Raises:
        InputError: the file is missing or something else.
    """
    if path is None:
        return LearnedWeights(weights=Weights())
    learned = read_json(path, LearnedWeights, "holds no weights of verse judge calibrate")
    if not any(msgspec.structs.astuple(learned.weights)):
        raise InputError(f"{path} gives every criterion the weight 0; one has to count.")
    return learned


def uses_of(
    poems: Sequence[Candidate], examples: Sequence[Poem], trained_on: Sequence[str]
) -> dict[str, Use]:
    """Poems that were used for the judging itself, by id: as `example` or for `calibration`."""
    sources = {example.source for example in examples}
    texts = {comparison_key(example.text) for example in examples}
    used: dict[str, Use] = dict.fromkeys(trained_on, "calibration")
    for poem in poems:
        if poem.id in sources or comparison_key(poem.text) in texts:
            used[poem.id] = "example"
    return used
