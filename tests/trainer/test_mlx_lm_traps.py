"""The thirteen traps of mlx_lm.lora 0.32.2 at about a hundred rows, each closed here.

Where it is cheap, the trap itself is shown first, on mlx-lm's own code.
"""

import itertools
from collections import Counter
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx_lm.models import qwen2
from mlx_lm.tuner import datasets as mlx_lm_datasets
from mlx_lm.tuner import trainer as mlx_lm_trainer

from tests.core.tokenizer import QWEN3_ADDED, QWEN3_TEMPLATE, make_tokenizer
from tests.trainer.runs import Runs, files_of, fresh, read_weights, write_data
from verse.prompt import Message, render
from verse_trainer import loop, lora
from verse_trainer.config import LoraConfig, ScheduleConfig, TrainConfig
from verse_trainer.config_load import resolve_config
from verse_trainer.encoding import Encoder
from verse_trainer.errors import ConfigError
from verse_trainer.events import Evaluated, Saved, Started, Stepped, TrainReport
from verse_trainer.objective import collate
from verse_trainer.plan import BatchPlan, padded
from verse_trainer.step import make_optimizer

LENGTHS = [20, 150, 25, 160, 30, 140, 22, 155, 28, 145]


class Rows(list[tuple[list[int], int]]):
    """Rows as mlx-lm's trainer takes them: token ids and where the answer begins."""

    def process(self, row: Any) -> Any:
        return row


def of_mlx_lm(lengths: list[int], batch_size: int) -> list[mx.array]:
    rows = Rows((list(range(1, length + 1)), 1) for length in lengths)
    data = mlx_lm_datasets.CacheDataset(rows)
    return [batch for batch, _ in mlx_lm_trainer.iterate_batches(data, batch_size, 2048)]


def test_trap_1_rows_of_like_length_share_a_batch() -> None:
    theirs = sum(batch[:, 1:].size for batch in of_mlx_lm(LENGTHS, 2))
    plan = BatchPlan([length - 1 for length in LENGTHS], 2, seed=0)
    ours = sum(
        len(batch) * padded(max(LENGTHS[row] - 1 for row in batch))
        for batch in map(plan.batch, range(1, plan.steps_per_epoch + 1))
    )
    assert theirs > 1.6 * sum(LENGTHS)
    assert ours < 1.2 * sum(LENGTHS)


def test_trap_2_no_row_is_left_out_of_training_or_validation(runs: Runs) -> None:
    assert sum(len(batch) for batch in of_mlx_lm(LENGTHS, 4)) == 8  # of 10, in every epoch
    plan = BatchPlan(LENGTHS, 4, seed=0)
    seen = Counter(row for step in range(1, 7) for row in plan.batch(step))
    assert seen == dict.fromkeys(range(10), 2)
    with pytest.raises(ValueError, match="at least batch_size"):
        of_mlx_lm(LENGTHS[:3], 4)
    write_data(runs.data, num_train=3, num_valid=1)
    assert runs.train(runs.config(batch_size=4, epochs=1)).best_valid_loss is not None


def test_trap_3_the_token_after_the_end_is_no_target(runs: Runs) -> None:
    (row,) = runs.prepare().material.rows["train"][:1]
    model = fresh(runs.base).model
    batch = mx.array([list(row.token_ids) + [0] * 8])
    lengths = mx.array([[row.targets[0], row.num_tokens]])
    _, theirs = mlx_lm_trainer.default_loss(model, batch, lengths)
    assert theirs.item() == row.weight + 1
    ours = collate([row])
    assert ours.is_target.sum().item() == row.weight
    learned = mx.where(ours.is_target == 1, ours.targets, -1).max().item()
    assert learned != 0
    assert row.token_ids[row.targets[-1]] == row.end_token


def test_trap_4_every_checkpoint_is_scored_by_its_own_weights_and_the_best_is_published(
    runs: Runs,
) -> None:
    outcome = runs.train(runs.config(save_every=3, steps_per_eval=2, patience=None))
    saved = [event.step for event in runs.reported(Saved)]
    assert saved == [2, 3, 4, 6, 8]
    assert [event.step for event in runs.reported(Evaluated)] == [0, *saved]
    files = files_of(runs.folder)
    assert files["adapters.safetensors"] == files[f"{outcome.best_step:07d}_adapters.safetensors"]
    # That each loss is that of its weights: test_run.py.


def test_trap_5_measuring_more_often_does_not_change_what_is_learned(runs: Runs) -> None:
    runs.train(runs.config(steps_per_eval=8, save_every=8))
    often = Runs(runs.base, runs.root / "often")
    often.train(often.config(steps_per_eval=1, save_every=8, patience=None))
    last = "0000008_adapters.safetensors"
    assert files_of(runs.folder)[last] == files_of(often.folder)[last]


def test_trap_6_a_resumed_run_goes_on_and_writes_over_nothing(runs: Runs) -> None:
    runs.train(runs.config(epochs=1, save_every=2))
    before = {file.name: file.stat().st_mtime_ns for file in runs.folder.glob("0*")}
    runs.events.clear()
    runs.train(runs.config(epochs=2, save_every=2, resume=True))
    assert runs.reported(Started)[0].start_step == 4
    assert [event.step for event in runs.reported(Stepped)] == [5, 6, 7, 8]
    assert {name: (runs.folder / name).stat().st_mtime_ns for name in before} == before


def test_trap_7_the_listener_hears_every_step_and_may_stop_the_run(runs: Runs) -> None:
    runs.train(stop=lambda: len(runs.reported(Stepped)) >= 2)
    kinds = {type(event).__name__ for event in runs.events}
    assert {"Started", "Stepped", "Evaluated", "Saved", "Stopped"} <= kinds
    assert runs.reported(Stepped)[-1].step == 2


def test_trap_8_the_threshold_of_the_cache_arrives(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    thresholds: list[int] = []
    monkeypatch.setattr(loop, "clear_cache", thresholds.append)
    runs.train(runs.config(clear_cache_threshold=1234, epochs=1))
    assert thresholds == [1234] * 4


def test_trap_9_parts_of_lora_parameters_may_be_missing_and_names_must_mean_something(
    runs: Runs,
) -> None:
    settled = resolve_config({"lora_parameters": {"rank": 4, "scale": 3.0}}, {}).config
    assert settled.lora_parameters == LoraConfig(rank=4, scale=3.0)
    with pytest.raises(ConfigError, match="learning_rte"):
        resolve_config({"learning_rte": 1e-4}, {})
    with pytest.raises(ConfigError, match=r"did you mean self_attn\.q_proj"):
        runs.prepare(runs.config(lora_parameters=LoraConfig(keys=("q_proj",))))
    everything = lora.adapt(fresh(runs.base).model, TrainConfig(num_layers=0))
    assert len(everything) == 7


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_trap_10_the_first_update_is_as_long_as_the_rate_says(name: Any) -> None:
    def first_move(**options: Any) -> float:
        config = TrainConfig(optimizer=name, learning_rate=1e-3, optimizer_config={name: options})
        model = nn.Linear(1, 1, bias=False)
        model.weight = mx.array([[0.0]])
        make_optimizer(config, 10).update(model, {"weight": mx.array([[0.7]])})
        return abs(model.weight.item())

    assert first_move() == pytest.approx(1e-3, rel=1e-3)
    assert first_move(bias_correction=False) == pytest.approx(3.16e-3, rel=1e-2)


def test_trap_11_a_schedule_counts_updates_and_no_gradient_is_lost(runs: Runs) -> None:
    schedule = ScheduleConfig(name="linear_schedule", arguments=(0.01, 0.0, 4))
    config = runs.config(
        grad_accumulation_steps=3,
        lr_schedule=schedule,
        steps_per_report=1,
        save_every=1,
        patience=None,
    )
    runs.train(config)
    rates = [report.learning_rate for report in runs.reported(TrainReport)]
    # 4 batches an epoch: updates after the third, and after the fourth with what is left over.
    assert rates == pytest.approx([0.01] * 3 + [0.0075] * 3 + [0.005, 0.0025], abs=1e-6)
    files = list(files_of(runs.folder, "0*").values())
    changed = [a != b for a, b in itertools.pairwise(files)]
    assert changed == [False, True, True, False, False, True, True]


def test_trap_11_batches_of_one_update_count_by_their_tokens(runs: Runs) -> None:
    """Two batches accumulated are one batch of all their rows."""
    write_data(runs.data, num_train=4, num_valid=0)
    keys: dict[str, Any] = {
        "epochs": 1,
        "optimizer": "sgd",
        "lora_parameters": LoraConfig(rank=4, dropout=0.0),
    }
    runs.train(runs.config(batch_size=1, grad_accumulation_steps=4, **keys))
    whole = Runs(runs.base, runs.root / "whole")
    write_data(whole.data, num_train=4, num_valid=0)
    whole.train(whole.config(batch_size=4, **keys))
    mine, theirs = (read_weights(r.folder / "adapters.safetensors") for r in (runs, whole))
    assert all(mx.allclose(mine[name], theirs[name], rtol=1e-3, atol=1e-7) for name in mine)


def test_every_token_counts_the_same_in_an_epoch_whatever_its_batch(runs: Runs) -> None:
    """Small steps over batches of one row add up to one step over all rows."""
    write_data(runs.data, num_train=6, num_valid=0)
    keys: dict[str, Any] = {
        "epochs": 1,
        "optimizer": "sgd",
        "lora_parameters": LoraConfig(rank=4, dropout=0.0),
    }
    runs.train(runs.config(batch_size=1, learning_rate=1e-6, **keys))
    whole = Runs(runs.base, runs.root / "whole")
    write_data(whole.data, num_train=6, num_valid=0)
    whole.train(whole.config(batch_size=6, learning_rate=6e-6, **keys))
    mine, theirs = (read_weights(r.folder / "adapters.safetensors") for r in (runs, whole))
    moved = [name for name in mine if name.endswith("lora_b")]
    assert all(mx.any(theirs[name] != 0) for name in moved)
    assert all(mx.allclose(mine[name], theirs[name], rtol=1e-2, atol=1e-10) for name in moved)


def test_trap_12_gradient_checkpoints_do_not_outlive_the_run(runs: Runs) -> None:
    before = qwen2.TransformerBlock.__call__
    runs.train(runs.config(grad_checkpoint=True, epochs=1))
    assert qwen2.TransformerBlock.__call__ is before
    # That the run has a process of its own: test_supervision.py.


def test_trap_13_thinking_is_off_in_training_as_in_serving() -> None:
    tokenizer = make_tokenizer(QWEN3_TEMPLATE, QWEN3_ADDED)
    encoder = Encoder(TrainConfig(), tokenizer, 512, None)
    turns = [Message("user", "河"), Message("assistant", "河水。")]
    row = encoder.encode(turns, "train.jsonl:1")
    served = render(turns[:1], encoder.prompt_format, tokenizer, add_generation_prompt=True)
    assert tokenizer.decode(list(served.token_ids)).endswith("<think>\n\n</think>\n\n")
    assert row.token_ids[: len(served.token_ids)] == served.token_ids
