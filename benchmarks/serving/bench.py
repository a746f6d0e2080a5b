"""What all parts of the benchmark share: its settings, its files, and its requests."""

import json
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
from safetensors.numpy import save_file

from benchmarks.parties import MODEL, THEMES, float32_copy, never_ending
from verse.prompt import POEM_SYSTEM

NUM_MIXED = 16
"""Different adapters in a mixed batch: as many as Verse has slots."""
_RANK = 8
_ADAPTED_LAYERS = 8
"""The last ones, as many as mlx-lm adapts at most where nothing is said."""
_B_SCALE = 0.01


@dataclass(frozen=True)
class Settings:
    """How much is measured."""

    rounds: int
    tokens: int
    """Of every answer; no answer is shorter."""
    streams: tuple[int, ...]
    folders: int
    """On the disk, in the Zipf part."""
    model: str = MODEL
    """The base: a folder or a Hugging Face id."""


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
        model = never_ending(float32_copy(folder / Path(settings.model).name, settings.model))
        names = write_adapters(folder / "adapters", NUM_MIXED, model)
        yield Bench(settings, folder, model, folder / "adapters", names)


def write_adapters(folder: Path, count: int, model: Path, *, seed: int = 0) -> tuple[str, ...]:
    """Write adapters of one rank for a base, each with weights of its own; returns their names.

    They are small noise on the last layers, as an adapter of real poems is as far as speed goes.
    Their prompts name no token that would end an answer early.
    """
    shapes = adapted_shapes(model)
    layers = json.loads((model / "config.json").read_text("utf-8"))["num_hidden_layers"]
    keys = sorted({name.split(".", 3)[3] for name in shapes})
    lora = {"rank": _RANK, "scale": 2.0, "dropout": 0.0, "keys": keys}
    adapted = min(_ADAPTED_LAYERS, layers)
    config = {"fine_tune_type": "lora", "num_layers": adapted, "lora_parameters": lora}
    random = np.random.default_rng(seed)
    names = tuple(f"poet{number:04d}" for number in range(count))
    for name in names:
        (folder / name).mkdir(parents=True)
        (folder / name / "adapter_config.json").write_text(json.dumps(config), "utf-8")
        (folder / name / "prompt.json").write_text(json.dumps({"system": POEM_SYSTEM}), "utf-8")
        weights = dict[str, Any]()
        for module, (inputs, outputs) in shapes.items():
            a = random.standard_normal((inputs, _RANK), np.float32) * inputs**-0.5
            weights[f"{module}.lora_a"] = a.astype(np.float32)
            b = random.standard_normal((_RANK, outputs), np.float32) * _B_SCALE
            weights[f"{module}.lora_b"] = b.astype(np.float32)
        save_file(weights, folder / name / "adapters.safetensors")
    return names


def adapted_shapes(model: Path) -> dict[str, tuple[int, int]]:
    """In and out dimensions of every linear layer in the last layers of a Qwen2 base, by path."""
    config = json.loads((model / "config.json").read_text("utf-8"))
    hidden, wide = config["hidden_size"], config["intermediate_size"]
    size = config.get("head_dim") or hidden // config["num_attention_heads"]
    queries, values = (config[f"num_{kind}_heads"] * size for kind in ("attention", "key_value"))
    shapes = {
        "self_attn.q_proj": (hidden, queries),
        "self_attn.k_proj": (hidden, values),
        "self_attn.v_proj": (hidden, values),
        "self_attn.o_proj": (queries, hidden),
        "mlp.gate_proj": (hidden, wide),
        "mlp.up_proj": (hidden, wide),
        "mlp.down_proj": (wide, hidden),
    }
    count = config["num_hidden_layers"]
    adapted = range(max(0, count - _ADAPTED_LAYERS), count)
    return {f"model.layers.{n}.{key}": shape for n in adapted for key, shape in shapes.items()}


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
