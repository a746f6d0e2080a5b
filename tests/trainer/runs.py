"""Training runs on a tiny random base, small enough to take dozens of them."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import pytest

from verse import openblas

openblas.preload()

import mlx.core as mx  # noqa: E402
import numpy as np  # noqa: E402
from mlx.utils import tree_flatten  # noqa: E402
from mlx_lm.models import qwen2  # noqa: E402

from verse.base_model import BaseModel, load_base_model  # noqa: E402
from verse.prompt import POEM_SYSTEM  # noqa: E402
from verse_trainer import checkpoint, lora, run  # noqa: E402
from verse_trainer.config import LoraConfig, TrainConfig  # noqa: E402
from verse_trainer.events import Event  # noqa: E402
from verse_trainer.loop import Outcome  # noqa: E402
from verse_trainer.run import PreparedRun  # noqa: E402

VERSE_TINY = Path(__file__).parents[2] / "models" / "verse-tiny"
MODEL: dict[str, Any] = {
    "model_type": "qwen2",
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-6,
    "vocab_size": 8192,
    "rope_theta": 10000.0,
    "max_position_embeddings": 256,
    "tie_word_embeddings": True,
    "eos_token_id": 2,
}
POEMS = (
    ("河", "河水向东，\n不回头。"),
    ("灯", "一盏灯等我，\n等成了黄昏。\n我没有回来。"),
    ("母亲", "她把针别在领口，\n把我别在心口。"),
    ("雪", "雪落在雪上，没有声音。"),
    ("门", "门开着，\n风进来坐下，\n又走了。"),
    ("秋", "叶子数完自己，\n树就轻了。"),
    ("海", "海把月亮揉碎，\n又一片一片还给它，\n一夜没有睡，\n天亮时只剩下盐。"),
    ("路", "路比我先到家。"),
    ("雨", "雨在瓦上写字，\n写一行，\n流一行。"),
    ("鸟", "它飞过去，\n天空就空了。"),
    ("井", "井里有一小块天，\n母亲每天打一桶上来。"),
    ("窗", "窗户替我看了一夜的雪。"),
)


@contextmanager
def quick() -> Generator[None]:
    """Runs of a few steps, by the dozen: compiling, drawing and the disk take most of their time.

    On a new machine every kernel is compiled by g++. What is left out here is in the tests that ask
    for `as_shipped`, and in those that run the command.
    """

    def skip(*_: object) -> None: ...

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", skip)
        patch.setattr(checkpoint, "draw_losses", skip)
        mx.disable_compile()
        yield
        mx.enable_compile()


def build_model(folder: Path, **overrides: Any) -> Path:
    """A random Qwen2 with verse-tiny's tokenizer."""
    folder.mkdir(parents=True)
    config = {**MODEL, **overrides}
    mx.random.seed(0)
    model = qwen2.Model(qwen2.ModelArgs.from_dict(config))
    weights = dict(cast(list[tuple[str, mx.array]], tree_flatten(model.parameters())))
    mx.save_safetensors(str(folder / "model.safetensors"), weights)
    (folder / "config.json").write_text(json.dumps(config))
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(VERSE_TINY / file, folder / file)
    return folder


def fresh(base: BaseModel) -> BaseModel:
    """The same base without what a run put into it; quicker than loading it."""
    model = qwen2.Model(qwen2.ModelArgs.from_dict(base.config))
    weights = cast(dict[str, mx.array], mx.load(str(base.path / "model.safetensors")))
    model.load_weights(list(weights.items()))
    return replace(base, model=model)


def chat(theme: str, poem: str, system: str | None = POEM_SYSTEM) -> dict[str, Any]:
    lead = [] if system is None else [{"role": "system", "content": system}]
    turns = [{"role": "user", "content": theme}, {"role": "assistant", "content": poem}]
    return {"messages": [*lead, *turns], "source": f"poem-{theme}"}


def write_rows(file: Path, rows: Sequence[Any]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return file


def write_data(folder: Path, num_train: int = 7, num_valid: int = 3) -> Path:
    rows = [chat(theme, poem) for theme, poem in POEMS]
    write_rows(folder / "train.jsonl", rows[:num_train])
    if num_valid:
        write_rows(folder / "valid.jsonl", rows[num_train : num_train + num_valid])
    return folder


def pairs(count: int = 4) -> list[dict[str, str]]:
    """The poem itself is better than another one."""
    return [
        {"prompt": theme, "chosen": poem, "rejected": POEMS[(number + 5) % len(POEMS)][1]}
        for number, (theme, poem) in enumerate(POEMS[:count])
    ]


@dataclass
class Runs:
    """Starts runs on one base, in one folder for all that belongs to a test."""

    base: BaseModel
    root: Path
    events: list[Event] = field(default_factory=list[Event])

    @property
    def folder(self) -> Path:
        return self.root / "adapter"

    @property
    def data(self) -> Path:
        return self.root / "data"

    def config(self, **changes: Any) -> TrainConfig:
        """A short run with everything that could go wrong switched on."""
        settings: dict[str, Any] = {
            "model": str(self.base.path),
            "data": str(self.data),
            "adapter_path": str(self.folder),
            "lora_parameters": LoraConfig(rank=4, dropout=0.1),
            "learning_rate": 1e-2,
            "batch_size": 2,
            "epochs": 2,
            "steps_per_report": 3,
        }
        return TrainConfig(**{**settings, **changes})

    def prepare(self, config: TrainConfig | None = None) -> PreparedRun:
        if not self.data.exists():
            write_data(self.data)
        return run.prepare(config or self.config(), fresh(self.base))

    def train(
        self,
        config: TrainConfig | None = None,
        on_event: Callable[[Event], None] = lambda _event: None,
        stop: Callable[[], bool] = lambda: False,
    ) -> Outcome:
        def hear(event: Event) -> None:
            self.events.append(event)
            on_event(event)

        return run.train(self.prepare(config), hear, stop)

    def reported(self, kind: type[Any]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]


def load(folder: Path) -> BaseModel:
    return load_base_model(str(folder))


def read_weights(file: Path) -> dict[str, mx.array]:
    return cast(dict[str, mx.array], mx.load(str(file)))


def digest(weights: dict[str, mx.array]) -> str:
    """Of every bit."""
    parts = (name.encode() + np.array(weights[name]).tobytes() for name in sorted(weights))
    return hashlib.sha256(b"".join(parts)).hexdigest()


def weights_of(prepared: PreparedRun) -> str:
    return digest(lora.trainable(prepared.base.model))


def files_of(folder: Path, pattern: str = "*adapters.safetensors") -> dict[str, str]:
    """Every weights file by its name and content."""
    return {
        file.name: hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.glob(pattern))
    }
