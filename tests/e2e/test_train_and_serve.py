"""An adapter is served while it is being trained."""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from openai import OpenAI

from tests.e2e.conftest import ROOT, start
from verse.base_model import load_base_model
from verse_trainer import run
from verse_trainer.config import LoraConfig, TrainConfig
from verse_trainer.events import Event, Saved

POEMS = ("河水流过石头。", "灯还亮着。", "雪落在雪上。", "门开着，风进来坐下。")


@dataclass
class Training:
    """What a server offered at each checkpoint, and how long after it was written."""

    client: OpenAI
    seconds: dict[int, float] = field(default_factory=dict[int, float])
    digests: list[object] = field(default_factory=list[object])

    def ask_for_what_was_saved(self, event: Event) -> None:
        if isinstance(event, Saved):
            written = time.perf_counter()
            retrieve = self.client.models.retrieve
            assert retrieve(f"mine@{event.step}").id == f"mine@{event.step}"
            self.seconds[event.step] = time.perf_counter() - written
            self.digests.append(retrieve("mine@2").to_dict()["digest"])


@pytest.fixture(scope="module")
def training(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Training]:
    """A server and a training run that writes into its folder, asked for each checkpoint."""
    folder = tmp_path_factory.mktemp("training")
    data, adapters = folder / "data", folder / "adapters"
    data.mkdir()
    adapters.mkdir()
    rows = [
        {"messages": [{"role": "user", "content": poem[0]}, {"role": "assistant", "content": poem}]}
        for poem in POEMS
    ]
    for name, part in (("train", rows[:3]), ("valid", rows[3:])):
        (data / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    served = start(adapters)
    base = load_base_model(str(ROOT / "models" / "verse-tiny"))
    config = TrainConfig(
        data=str(data),
        adapter_path=str(adapters / "mine"),
        iters=6,
        save_every=2,
        lora_parameters=LoraConfig(rank=4),
    )
    training = Training(served.client)
    run.train(run.prepare(config, base), training.ask_for_what_was_saved)
    yield training
    served.stop()


@pytest.mark.slow
def test_every_checkpoint_is_offered_as_soon_as_it_is_written(training: Training) -> None:
    assert list(training.seconds) == [2, 4, 6]
    assert len(set(training.digests)) == 1
    for name in ("mine@2", "mine@best", "mine@last", "mine"):
        answer = training.client.chat.completions.create(
            model=name, max_tokens=4, messages=[{"role": "user", "content": "河"}]
        )
        assert answer.choices[0].finish_reason in ("stop", "length")


@pytest.mark.perf
def test_every_checkpoint_is_offered_within_a_second_of_being_written(training: Training) -> None:
    assert max(training.seconds.values()) < 1
