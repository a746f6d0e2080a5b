"""`metrics.jsonl` and `samples.jsonl`: the events of a run that are kept, in order."""

from pathlib import Path
from typing import TypeVar

import msgspec

from verse import jsonl
from verse_trainer.events import Evaluated, Event, Sampled, Stopped, Tested, TrainReport
from verse_trainer.publication import METRICS_FILE, SAMPLES_FILE

Metric = TrainReport | Evaluated | Tested | Stopped
_METRIC = msgspec.json.Decoder(Metric)
_SAMPLE = msgspec.json.Decoder(Sampled)

T = TypeVar("T", bound=msgspec.Struct)


def append(folder: Path, event: Event) -> None:
    """Keep an event, if it is of a kind that is kept.

    Raises:
        OSError: the disk is full or read-only.
    """
    if isinstance(event, Metric):
        jsonl.append(folder / METRICS_FILE, event)
    elif isinstance(event, Sampled):
        jsonl.append(folder / SAMPLES_FILE, event)


def read_metrics(folder: Path) -> list[Metric]:
    """All that is whole in `metrics.jsonl`; a line that was cut off is left out."""
    return _read(folder / METRICS_FILE, _METRIC)


def rewind(folder: Path, step: int | None) -> None:
    """Drop what was told of steps that are taken again; None if that is all of them.

    Those steps give the same numbers again, and a reader finds each of them once. So does the end.
    """
    metrics = [m for m in read_metrics(folder) if not isinstance(m, Stopped | Tested)]
    samples = _read(folder / SAMPLES_FILE, _SAMPLE)
    for name, events in ((METRICS_FILE, metrics), (SAMPLES_FILE, samples)):
        if (folder / name).exists():
            kept = [event for event in events if step is not None and event.step <= step]
            jsonl.rewrite(folder / name, kept)


def _read(file: Path, decoder: msgspec.json.Decoder[T]) -> list[T]:
    if not file.exists():
        return []
    return [e for _, e in jsonl.scan(file, decoder) if not isinstance(e, jsonl.JsonlError)]
