"""Run folders of the first release, in `run_folders/`, are read and gone on with.

`interrupted` and `preferences` were stopped between two updates; `expected.safetensors` is what
that release made of them in the end. `finished` ended with an update of what was left.
"""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from tests.trainer.runs import Runs, files_of, pairs, read_weights, write_data, write_rows
from verse.adapter_folder import read_adapter_folder
from verse_trainer import checkpoint, run_record
from verse_trainer.config import LoraConfig
from verse_trainer.events import Evaluated, Started, Stepped

FOLDERS = Path(__file__).with_name("run_folders")
KEYS: dict[str, Any] = {
    "num_layers": 1,
    "lora_parameters": LoraConfig(rank=1, dropout=0.1),
    "patience": None,
    "steps_per_report": 2,
    "grad_accumulation_steps": 3,
    "resume": True,
}


def put(runs: Runs, name: str) -> None:
    """The folder and its rows, as if the run had been one on this machine's base.

    The base is built by the test, and another mlx may lay its file out in another way.
    """
    shutil.copytree(FOLDERS / name, runs.folder, ignore=shutil.ignore_patterns("expected*"))
    file = runs.folder / "run.json"
    record = json.loads(file.read_text())
    record["identity"]["base"] = earlier_digest(runs.base.path)
    file.write_text(json.dumps(record))
    if name == "preferences":
        write_rows(runs.data / "train.jsonl", pairs(5))
        write_rows(runs.data / "valid.jsonl", pairs(2))
    else:
        write_data(runs.data)


def earlier_digest(base: Path) -> str:
    """As a run of a small base recorded it before bases had digests that servers tell."""
    (weights,) = base.glob("*.safetensors")
    digest = hashlib.sha256(hashlib.sha256((base / "config.json").read_bytes()).digest())
    digest.update(f"{weights.name}/{weights.stat().st_size}/".encode())
    digest.update(hashlib.sha256(weights.read_bytes()).digest())
    return digest.hexdigest()


def is_expected(runs: Runs, name: str, step: int) -> bool:
    mine = read_weights(runs.folder / f"{step:07d}_adapters.safetensors")
    theirs = read_weights(FOLDERS / name / "expected.safetensors")
    return mine.keys() == theirs.keys() and all(
        mx.allclose(mine[key], theirs[key], rtol=1e-3, atol=1e-5).item() for key in theirs
    )


def test_a_run_that_was_interrupted_goes_on_as_it_would_have(runs: Runs) -> None:
    put(runs, "interrupted")
    before = files_of(runs.folder, "0*")
    reported = checkpoint.read_metrics(runs.folder)[:-1]  # without its stop
    outcome = runs.train(
        runs.config(**KEYS, epochs=3, sample_every=4, sample_themes=("河",)),
    )
    assert runs.reported(Started)[0].start_step == 6
    assert (outcome.reason, outcome.step) == ("finished", 12)
    assert is_expected(runs, "interrupted", 12)
    assert before.items() <= files_of(runs.folder).items()
    assert checkpoint.read_metrics(runs.folder)[: len(reported)] == reported
    config = json.loads((runs.folder / "adapter_config.json").read_text())
    assert [entry["step"] for entry in config["history"]] == [4, 8, 12]
    record = run_record.read_record(runs.folder)
    assert record is not None
    assert (record.resumed, record.outcome) == ((6,), "finished")


def test_preferences_go_on_against_their_references(runs: Runs) -> None:
    put(runs, "preferences")
    outcome = runs.train(runs.config(**KEYS, method="dpo", epochs=2))
    assert (outcome.reason, outcome.step) == ("finished", 6)
    assert is_expected(runs, "preferences", 6)
    assert all(event.preference is not None for event in runs.reported(Evaluated))


def test_a_finished_run_has_nothing_left_to_do(runs: Runs) -> None:
    put(runs, "finished")
    before = files_of(runs.folder)
    assert read_adapter_folder(runs.folder).last_step == 6
    prepared = runs.prepare(runs.config(**KEYS, iters=6))
    assert prepared.notes == ()
    assert runs.train(runs.config(**KEYS, iters=6)).reason == "finished"
    assert runs.reported(Stepped) == []
    assert files_of(runs.folder) == before


def test_made_longer_it_says_that_the_update_of_its_end_stays(runs: Runs) -> None:
    put(runs, "finished")
    prepared = runs.prepare(runs.config(**KEYS, iters=12))
    assert prepared.notes == (
        "An earlier version of Verse ended this run at step 6 with an update of fewer batches than "
        "grad_accumulation_steps and kept no state from before it, so the longer run includes that "
        "update.",
    )
    outcome = runs.train(runs.config(**KEYS, iters=12))
    assert outcome.step == 12
    assert [event.step for event in runs.reported(Stepped)] == list(range(7, 13))


@pytest.mark.parametrize("name", ["interrupted", "preferences", "finished"])
def test_nothing_in_them_names_a_place(name: str) -> None:
    for file in (FOLDERS / name).glob("*.json*"):
        assert "/tmp" not in file.read_text()
