"""`verse train` as a person runs it: the real command, the real training process."""

import contextlib
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest

from tests.trainer.runs import build_model, write_data

PROJECT = Path(__file__).parents[2]
VERSE = str(Path(sys.executable).with_name("verse"))
RUN = ("--batch-size", "2", "--num-layers", "1", "--steps-per-report", "1", "--patience", "0")

pytestmark = pytest.mark.slow


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = write_data(tmp_path / "data", num_train=5, num_valid=1)
    shutil.copy(folder / "valid.jsonl", folder / "test.jsonl")
    return folder


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def command(base: Path, data: Path, tmp_path: Path) -> Callable[..., list[str]]:
    def line(*arguments: str) -> list[str]:
        files = {"--model": base, "--data": data, "--adapter-path": tmp_path / "mine"}
        places = [str(part) for pair in files.items() for part in pair]
        return [VERSE, "train", "-c", "verse-tiny", *RUN, *places, *arguments]

    return line


def run(line: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        line, cwd=PROJECT, capture_output=True, text=True, timeout=300, check=False
    )


@contextlib.contextmanager
def running(line: list[str]) -> Generator["subprocess.Popen[str]"]:
    with subprocess.Popen(
        line, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_for(process: "subprocess.Popen[str]", event: str) -> dict[str, Any]:
    assert process.stdout is not None
    for line in process.stdout:
        if (message := json.loads(line))["event"] == event:
            return message
    raise AssertionError(f"it ended without {event}")


def child_of(pid: int) -> int:
    children = subprocess.run(
        ["pgrep", "-P", str(pid)], capture_output=True, text=True, check=True, timeout=60
    )
    return int(children.stdout.split()[0])


def contents(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def test_a_dry_run_tells_what_a_run_would_be_and_writes_nothing(
    command: Callable[..., list[str]], tmp_path: Path
) -> None:
    result = run(command("--dry-run", "--json", "--epochs", "2"))
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    messages = [json.loads(line) for line in result.stdout.splitlines()]
    assert {message["event"] for message in messages} == {"loading", "forecast"}
    forecast = messages[-1]
    assert forecast["num_rows"] == 5
    assert forecast["never_seen"] == 0
    assert forecast["never_seen_by_mlx_lm"] == 1
    assert forecast["total_steps"] == 6
    assert forecast["peak_memory_bytes"] > forecast["memory_estimate"]["weights_bytes"]
    assert not (tmp_path / "mine").exists()


def test_ctrl_c_saves_and_resume_goes_on_and_testing_changes_nothing(
    command: Callable[..., list[str]], tmp_path: Path
) -> None:
    length = ("--iters", "12", "--save-every", "12")
    with running(command(*length, "--json")) as process:
        wait_for(process, "train")
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=180)
    assert process.returncode == 130
    assert told.startswith("Stopped and saved at step ")
    assert told.endswith("; continue with the same command and --resume.\n")

    result = run(command(*length, "--resume"))
    assert result.returncode == 0, result.stderr
    assert re.search(r"\d+ steps? (is|are) done already", result.stdout)
    assert "Finished at step 12." in result.stdout

    before = contents(tmp_path / "mine")
    tested = run(command("--no-train", "--test"))
    assert tested.returncode == 0, tested.stderr
    assert "test loss" in tested.stdout
    assert contents(tmp_path / "mine") == before


def test_the_death_of_the_training_process_is_told_in_one_sentence(
    command: Callable[..., list[str]],
) -> None:
    with running(command("--iters", "500", "--save-every", "1", "--json")) as process:
        wait_for(process, "saved")
        os.kill(child_of(process.pid), signal.SIGKILL)
        _, told = process.communicate(timeout=180)
    assert process.returncode == 2
    assert told.startswith("The training process was killed by SIGKILL, most likely because memory")
    assert "--resume" in told
    assert told.count("\n") == 1


def test_the_death_of_the_command_ends_the_training_process_which_saves(
    command: Callable[..., list[str]], tmp_path: Path
) -> None:
    with running(command("--iters", "500", "--save-every", "1", "--json")) as process:
        wait_for(process, "saved")
        process.kill()
    metrics = tmp_path / "mine" / "metrics.jsonl"
    deadline = time.monotonic() + 180
    while '"stopped"' not in metrics.read_text():
        assert time.monotonic() < deadline, "the training process goes on without the command"
        time.sleep(0.1)
    assert json.loads(metrics.read_text().splitlines()[-1])["reason"] == "interrupted"


def test_a_mistake_is_one_sentence_and_code_2(
    command: Callable[..., list[str]], tmp_path: Path
) -> None:
    (tmp_path / "mine.yaml").write_text("batch_sise: 2\n")
    result = run([VERSE, "train", "-c", str(tmp_path / "mine.yaml"), "--json"])
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr == (
        f"batch_sise in {tmp_path}/mine.yaml is not a key of verse train; "
        "did you mean batch_size?\n"
    )
    (tmp_path / "data" / "train.jsonl").write_text("{}\n")
    result = run(command())
    assert result.returncode == 2
    assert "train.jsonl:1" in result.stderr
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "mine").exists()
