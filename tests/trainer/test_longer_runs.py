"""A run in parts, ended or stopped in between and made longer, is the run in one piece."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from tests.trainer.runs import Runs, files_of, pairs, weights_of, write_data, write_rows
from verse_trainer import checkpoint, run
from verse_trainer.config import TrainConfig
from verse_trainer.events import Evaluated, Event, Stepped, TrainReport
from verse_trainer.loop import Outcome
from verse_trainer.plan import make_cadence
from verse_trainer.run_record import read_record

LAST = "{:07d}_adapters.safetensors"


def updates_of(per_epoch: int, accumulation: int, total: int) -> list[int]:
    """After which batches the weights change, counted one by one."""
    updates: list[int] = []
    waiting = 0
    for step in range(1, total + 1):
        waiting += 1
        if waiting == accumulation or step % per_epoch == 0 or step == total:
            updates.append(step)
            waiting = 0
    return updates


@dataclass
class Walk:
    """Parts of one run, and the weights after each step."""

    runs: Runs
    keys: Mapping[str, Any]
    weights: dict[int, str] = field(default_factory=dict[int, str])

    def go(self, iters: int, stop_at: int | None = None) -> Outcome:
        """One part."""
        if not self.runs.data.exists():
            self._write_rows()
        resume = read_record(self.runs.folder) is not None
        prepared = self.runs.prepare(self.runs.config(iters=iters, resume=resume, **self.keys))
        self.weights.setdefault(0, weights_of(prepared))
        done = prepared.start_step

        def hear(event: Event) -> None:
            nonlocal done
            if isinstance(event, Stepped):
                done = event.step
                self.weights[done] = weights_of(prepared)

        outcome = run.train(prepared, hear, lambda: stop_at is not None and done >= stop_at)
        if outcome.reason == "finished":
            self.weights[outcome.step] = weights_of(prepared)
        return outcome

    @property
    def updates(self) -> list[int]:
        """Steps that changed the weights."""
        return [s for s in self.weights if s and self.weights[s] != self.weights[s - 1]]

    @property
    def losses(self) -> set[tuple[str, int, float]]:
        """Each of them reported once."""
        losses = Counter(
            (type(m).__name__, m.step, m.train_loss if isinstance(m, TrainReport) else m.valid_loss)
            for m in checkpoint.read_metrics(self.runs.folder)
            if isinstance(m, TrainReport | Evaluated)
        )
        assert set(Counter(loss[:2] for loss in losses.elements()).values()) <= {1}
        return set(losses)

    @property
    def history(self) -> dict[int, Any]:
        config = json.loads((self.runs.folder / "adapter_config.json").read_text())
        return {entry["step"]: entry for entry in config["history"]}

    def _write_rows(self) -> None:
        if self.keys.get("method") == "dpo":
            write_rows(self.runs.data / "train.jsonl", pairs(7))
            write_rows(self.runs.data / "valid.jsonl", pairs(2))
        else:
            write_data(self.runs.data)


@pytest.fixture
def walk(runs: Runs) -> Any:
    def new(name: str, **keys: Any) -> Walk:
        return Walk(Runs(runs.base, runs.root / name), {"patience": None, **keys})

    return new


@given(st.integers(1, 9), st.integers(1, 5), st.integers(1, 40))
def test_the_rule_of_updates_is_the_one_counted_by_hand(
    per_epoch: int, accumulation: int, total: int
) -> None:
    config = TrainConfig(iters=total, grad_accumulation_steps=accumulation)
    cadence = make_cadence(config, per_epoch)
    expected = updates_of(per_epoch, accumulation, total)
    assert [step for step in range(1, total + 1) if cadence.is_update(step)] == expected
    assert cadence.total_updates == len(expected)
    endless = [step for step in range(1, total + 1) if cadence.endless.is_update(step)]
    assert endless == [s for s in updates_of(per_epoch, accumulation, 10_000) if s <= total]


@pytest.mark.usefixtures("as_shipped")
def test_a_longer_run_takes_back_the_update_of_its_former_end(walk: Any) -> None:
    keys: dict[str, Any] = {"batch_size": 1, "grad_accumulation_steps": 4, "save_every": 20}
    parts, whole = walk("parts", **keys), walk("whole", **keys)
    # Seven batches an epoch, so what is left of its second half is an update too.
    parts.go(5)
    assert parts.updates == [4, 5]
    parts.go(10)
    whole.go(10)
    assert whole.updates == [4, 7, 10]
    assert {s: w for s, w in parts.weights.items() if s != 5} == {
        s: w for s, w in whole.weights.items() if s != 5
    }
    assert (
        files_of(parts.runs.folder)[LAST.format(10)] == files_of(whole.runs.folder)[LAST.format(10)]
    )


def test_an_ended_run_has_made_its_last_update_however_often_it_is_resumed(walk: Any) -> None:
    parts = walk("parts", batch_size=1, grad_accumulation_steps=4, save_every=20)
    parts.go(5)
    files = files_of(parts.runs.folder)
    assert parts.weights[5] != parts.weights[4]
    parts.go(5)
    assert files_of(parts.runs.folder) == files
    (parts.runs.folder / LAST.format(5)).unlink()  # as if it had been killed before this
    (parts.runs.folder / "adapters.safetensors").unlink()
    parts.go(5)
    assert files_of(parts.runs.folder) == files


def test_the_end_of_a_shorter_run_does_not_count_towards_an_early_stop(walk: Any) -> None:
    keys: dict[str, Any] = {"save_every": 4, "patience": 2, "learning_rate": 0.3}
    parts, whole = walk("parts", **keys), walk("whole", **keys)
    expected = whole.go(60)
    assert expected.reason == "early_stop"
    for iters in range(1, expected.step, 3):
        parts.go(iters)
    outcome = parts.go(60)
    assert (outcome.reason, outcome.step) == ("early_stop", expected.step)
    assert outcome.best_valid_loss == min(entry["valid_loss"] for entry in parts.history.values())


def test_the_end_is_reported_once_however_often_the_run_is_made_longer(walk: Any) -> None:
    parts = walk("parts", test=True)
    write_data(parts.runs.data)
    valid = (parts.runs.data / "valid.jsonl").read_bytes()
    (parts.runs.data / "test.jsonl").write_bytes(valid)
    for iters in (3, 3, 6):
        parts.go(iters)
    lines = (parts.runs.folder / "metrics.jsonl").read_text().splitlines()
    kinds = [json.loads(line)["event"] for line in lines]
    assert (kinds.count("test"), kinds.count("stopped")) == (1, 1)


ACCUMULATING: dict[str, Any] = {"batch_size": 1, "grad_accumulation_steps": 4}


@pytest.mark.parametrize(
    ("step", "keys"),
    [
        (5, {"save_every": 20}),
        (5, {"save_every": 5}),  # it was measured, with weights that are not those of the end
        (6, {"save_every": 2, "learning_rate": 0.3}),  # and was the best so far
        (7, {"save_every": 7, "sample_every": 7, "sample_themes": ("河",)}),  # only the report
        (7, {"save_every": 20, "method": "dpo"}),
    ],
)
def test_a_run_stopped_at_what_becomes_its_end_ends_there(
    walk: Any, step: int, keys: dict[str, Any]
) -> None:
    parts, alone = (walk(name, **ACCUMULATING, **keys) for name in ("parts", "alone"))
    alone.go(step)
    assert parts.go(10, stop_at=step).reason == "interrupted"
    outcome = parts.go(step)
    assert (outcome.reason, outcome.step) == ("finished", step)
    expected = left_by(alone)
    assert left_by(parts) == expected
    parts.go(step)
    parts.go(2)  # it cannot be made shorter
    assert left_by(parts) == expected


def left_by(walk: Walk) -> dict[str, Any]:
    folder = walk.runs.folder
    record, samples = read_record(folder), folder / "samples.jsonl"
    assert record is not None
    return {
        "files": files_of(folder),
        "losses": walk.losses,
        "config": (folder / "adapter_config.json").read_text(),
        "samples": samples.read_text() if samples.exists() else "",
        "end": (record.outcome, record.step, record.best_step, record.best_valid_loss),
    }


def test_killed_while_it_ends_where_it_was_stopped_it_ends_there_later(
    walk: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = {**ACCUMULATING, "save_every": 5}
    parts, alone = (walk(name, **keys) for name in ("parts", "alone"))
    alone.go(5)
    parts.go(10, stop_at=5)
    write = checkpoint.write_weights

    def die(*_: Any) -> None:
        raise KeyboardInterrupt

    def die_at_checkpoint(file: Path, weights: Any) -> None:
        (die if file.name == LAST.format(5) else write)(file, weights)

    for name, dying in (("write_state", die), ("write_weights", die_at_checkpoint)):
        with monkeypatch.context() as patch:
            patch.setattr(checkpoint, name, dying)
            with pytest.raises(KeyboardInterrupt):
                parts.go(5)
        assert files_of(parts.runs.folder, "0*") != files_of(alone.runs.folder, "0*")
    parts.go(5)
    assert left_by(parts) == left_by(alone)


class Cut(NamedTuple):
    """Where one part of a run is over."""

    step: int
    is_stopped: bool
    """It was asked for more steps, and someone stopped it."""
    has_ended: bool
    """It was asked for so many steps; where it was stopped too, afterwards."""


STOPPED, ENDED, BOTH = (True, False), (False, True), (True, True)


def as_cut(drawn: tuple[int, tuple[bool, bool]]) -> Cut:
    return Cut(drawn[0], *drawn[1])


CUTS = st.lists(
    st.tuples(st.integers(1, 9), st.sampled_from((STOPPED, ENDED, BOTH))).map(as_cut),
    min_size=1,
    max_size=2,
    unique_by=lambda cut: cut.step,
)
KEYS: dict[str, Any] = {
    "method": "sft",
    "batch_size": 1,
    "grad_accumulation_steps": 4,
    "save_every": 2,
    "patience": None,
    "learning_rate": 0.1,
}


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
@settings(
    max_examples=8,
    deadline=None,
    phases=[
        Phase.explicit,
        Phase.generate,
    ],  # each example is several runs; there is no time to shrink one
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    cuts=CUTS,
    total=st.integers(4, 10),
    keys=st.fixed_dictionaries(
        {
            "method": st.sampled_from(["sft", "sft", "dpo"]),
            "batch_size": st.integers(1, 3),
            "grad_accumulation_steps": st.integers(2, 4),
            "save_every": st.sampled_from([None, 2, 3, 20]),
            "patience": st.sampled_from([None, 1, 2]),
            "learning_rate": st.sampled_from([0.01, 0.1]),
        }
    ),
)
@example(cuts=[Cut(6, *BOTH)], total=9, keys=KEYS)
@example(cuts=[Cut(6, *STOPPED)], total=6, keys=KEYS)
def test_any_parts_of_a_run_make_the_run(
    cuts: Sequence[Cut], total: int, keys: dict[str, Any], tiny_base: Any, tmp_path_factory: Any
) -> None:
    root = tmp_path_factory.mktemp("runs")
    whole, parts = (Walk(Runs(tiny_base, root / name), keys) for name in ("whole", "parts"))
    expected = whole.go(total)
    ends: dict[int, str] = {}
    """Of the ended parts, what a run of their length leaves."""
    for cut in sorted(cut for cut in cuts if cut.step <= total):
        if cut.is_stopped:
            parts.go(total + 5, stop_at=cut.step)
        if cut.has_ended and cut.step < total and parts.go(cut.step).step == cut.step:
            alone = Walk(Runs(tiny_base, root / f"alone{cut.step}"), keys)
            alone.go(cut.step)
            ends[cut.step] = files_of(alone.runs.folder)[LAST.format(cut.step)]
    outcome = parts.go(total)

    assert (outcome.reason, outcome.step) == (expected.reason, expected.step)
    assert {s: w for s, w in parts.weights.items() if s not in ends} == {
        s: w for s, w in whole.weights.items() if s not in ends
    }
    mine, theirs = files_of(parts.runs.folder, "0*"), files_of(whole.runs.folder, "0*")
    for step, content in ends.items():
        assert mine[LAST.format(step)] == content
        theirs.pop(LAST.format(step), None)
    assert theirs.items() <= mine.items()
    assert {e for e in whole.losses if e[1] not in ends} <= parts.losses
    assert {e[1] for e in parts.losses - whole.losses} <= set(ends)
    history = parts.history
    assert {s: e for s, e in history.items() if s not in ends} == {
        s: e for s, e in whole.history.items() if s not in ends
    }
    best = min(history, key=lambda step: history[step]["valid_loss"])
    assert outcome.best_step == best
    published = files_of(parts.runs.folder, "adapters.safetensors")["adapters.safetensors"]
    assert published == mine[LAST.format(best)]
