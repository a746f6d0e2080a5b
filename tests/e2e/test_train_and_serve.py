"""An adapter is served while it is being trained."""

import json
import time
from pathlib import Path

import pytest

from tests.e2e.conftest import ROOT, Serve
from verse.base_model import load_base_model
from verse_trainer import run
from verse_trainer.config import LoraConfig, TrainConfig
from verse_trainer.events import Event, Saved

POEMS = ("河水流过石头。", "灯还亮着。", "雪落在雪上。", "门开着，风进来坐下。")


@pytest.mark.slow
def test_every_checkpoint_is_offered_within_a_second_of_being_written(
    serve: Serve, tmp_path: Path
) -> None:
    data, adapters = tmp_path / "data", tmp_path / "adapters"
    data.mkdir()
    adapters.mkdir()
    rows = [
        {"messages": [{"role": "user", "content": poem[0]}, {"role": "assistant", "content": poem}]}
        for poem in POEMS
    ]
    for name, part in (("train", rows[:3]), ("valid", rows[3:])):
        (data / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    client = serve(adapters=adapters).client
    base = load_base_model(str(ROOT / "models" / "verse-tiny"))
    config = TrainConfig(
        data=str(data),
        adapter_path=str(adapters / "mine"),
        iters=6,
        save_every=2,
        lora_parameters=LoraConfig(rank=4),
    )
    seconds: dict[int, float] = {}
    digests: list[object] = []

    def ask_for_it(event: Event) -> None:
        if isinstance(event, Saved):
            written = time.perf_counter()
            assert client.models.retrieve(f"mine@{event.step}").id == f"mine@{event.step}"
            seconds[event.step] = time.perf_counter() - written
            digests.append(client.models.retrieve("mine@2").to_dict()["digest"])

    run.train(run.prepare(config, base), ask_for_it)
    assert list(seconds) == [2, 4, 6]
    assert max(seconds.values()) < 1
    assert len(set(digests)) == 1
    for name in ("mine@2", "mine@best", "mine@last", "mine"):
        answer = client.chat.completions.create(
            model=name, max_tokens=4, messages=[{"role": "user", "content": "河"}]
        )
        assert answer.choices[0].finish_reason in ("stop", "length")
