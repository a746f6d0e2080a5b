"""What all parts of the benchmark share: its settings, its files, and its requests."""

import json
import shutil
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
from safetensors.numpy import load_file, save_file

from benchmarks.parties import ROOT, THEMES, float32_copy, never_ending
from verse.prompt import POEM_SYSTEM

NUM_MIXED = 16
"""Different adapters in a mixed batch: as many as Verse has slots."""
_PATTERN = ROOT / "adapters" / "xuzhimo"
_NOISE = 0.05


@dataclass(frozen=True)
class Settings:
    """How much is measured."""

    rounds: int
    tokens: int
    """Of every answer; no answer is shorter."""
    streams: tuple[int, ...]
    folders: int
    """On the disk, in the Zipf part."""


@dataclass(frozen=True)
class Bench:
    """The settings and what lies in the temporary folder."""

    settings: Settings
    folder: Path
    model: Path
    adapters: Path
    """Holds `names`, and nothing else."""
    names: tuple[str, ...]


class Request(NamedTuple):
    """One poem to write."""

    theme: str
    model: str | None
    """Verse's spelling; None is the base."""


@contextmanager
def workbench(settings: Settings) -> Generator[Bench]:
    """Write the files that every part needs, and remove them at the end."""
    with TemporaryDirectory(prefix="verse-benchmark-") as name:
        folder = Path(name)
        model = never_ending(float32_copy(folder / "verse-tiny"))
        names = write_adapters(folder / "adapters", NUM_MIXED)
        yield Bench(settings, folder, model, folder / "adapters", names)


def write_adapters(folder: Path, count: int, *, seed: int = 0) -> tuple[str, ...]:
    """Write adapters of one rank, each with weights of its own; returns their names.

    They are a shipped one with noise on every weight. Their prompts name no token that would end
    an answer early.
    """
    weights = load_file(_PATTERN / "adapters.safetensors")
    random = np.random.default_rng(seed)
    names = tuple(f"poet{number:04d}" for number in range(count))
    for name in names:
        (folder / name).mkdir(parents=True)
        shutil.copy(_PATTERN / "adapter_config.json", folder / name)
        (folder / name / "prompt.json").write_text(json.dumps({"system": POEM_SYSTEM}), "utf-8")
        noisy = {
            key: array + _NOISE * array.std() * random.standard_normal(array.shape, np.float32)
            for key, array in weights.items()
        }
        save_file(noisy, folder / name / "adapters.safetensors")
    return names


def requests(models: Sequence[str | None], count: int, start: int = 0) -> list[Request]:
    """Themes and models, each in turn; rounds that start elsewhere ask for other themes."""
    return [
        Request(THEMES[(start + index) % len(THEMES)], models[index % len(models)])
        for index in range(count)
    ]


def messages(theme: str, system: str = POEM_SYSTEM) -> list[dict[str, str]]:
    """The conversation that asks for a poem."""
    return [{"role": "system", "content": system}, {"role": "user", "content": theme}]


def verse_body(request: Request, tokens: int, **more: Any) -> dict[str, Any]:
    """A request to Verse, where the adapter is the model. Greedy, so all draw in the same way."""
    greedy = {"max_tokens": tokens, "temperature": 0}
    return {"model": request.model or "base", "messages": messages(request.theme), **greedy, **more}


def mlx_lm_body(bench: Bench, request: Request, tokens: int, **more: Any) -> dict[str, Any]:
    """A request to mlx_lm.server, where the model is a path and the adapter another."""
    adapter = {"adapters": str(bench.adapters / request.model)} if request.model else {}
    return {**verse_body(request, tokens), "model": str(bench.model), **adapter, **more}


def blends(names: Sequence[str]) -> list[str]:
    """As many different blends as there are adapters."""
    pairs = zip(names, [*islice(names, 1, None), names[0]], strict=True)
    return [f"{first}:0.7+{second}:0.3" for first, second in pairs]
