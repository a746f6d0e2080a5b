"""The layer cache on a real Qwen: `VERSE_QWEN=FOLDER uv run pytest -m qwen`."""

import shutil
from pathlib import Path

import msgspec
import pytest

from tests.trainer.runs import POEMS, chat, write_rows
from verse_trainer import run
from verse_trainer.config import LoraConfig, TrainConfig
from verse_trainer.events import Evaluated, Event, Stepped
from verse_trainer.frozen_layers import load_for_training

pytestmark = [pytest.mark.qwen, pytest.mark.slow]


def losses(config: TrainConfig) -> tuple[list[float], run.PreparedRun]:
    found: list[float] = []

    def hear(event: Event) -> None:
        if isinstance(event, Stepped):
            found.append(event.loss)
        elif isinstance(event, Evaluated):
            found.append(event.valid_loss)

    prepared = run.prepare(config, load_for_training(config))
    run.train(prepared, hear)
    return found, prepared


def test_losses_with_the_cache_are_those_without(qwen: str, tmp_path: Path) -> None:
    rows = [chat(theme, poem) for theme, poem in POEMS]
    write_rows(tmp_path / "data" / "train.jsonl", rows[:8])
    write_rows(tmp_path / "data" / "valid.jsonl", rows[8:])
    config = TrainConfig(
        model=qwen,
        data=str(tmp_path / "data"),
        adapter_path=str(tmp_path / "cached"),
        num_layers=8,
        batch_size=4,
        iters=3,
        lora_parameters=LoraConfig(dropout=0.05),
    )
    cached, prepared = losses(config)
    assert prepared.num_frozen == 16
    assert prepared.resident_bytes < prepared.base.bytes / 2
    del prepared
    shutil.rmtree(tmp_path / "cached")
    without, _ = losses(msgspec.structs.replace(config, layer_cache=False))
    assert cached == pytest.approx(without, rel=1e-5)
