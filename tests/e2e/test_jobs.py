"""Jobs on the real server with the real trainer and the real SDK."""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.e2e.conftest import ROOT, Serve
from tests.e2e.guide import block

pytestmark = pytest.mark.slow

README = (ROOT / "README.md").read_text("utf-8")
ENDED = ("succeeded", "failed", "cancelled")


def few_poems(folder: Path, number: int = 8) -> Path:
    lines = (ROOT / "data" / "poems.jsonl").read_text("utf-8").splitlines(keepends=True)
    file = folder / "poems.jsonl"
    file.write_text("".join(lines[:number]), "utf-8")
    return file


def test_the_script_in_the_readme_trains_and_asks_for_what_it_trained(
    serve: Serve, tmp_path: Path
) -> None:
    (tmp_path / "mine").mkdir()
    served = serve("--jobs", adapters=tmp_path / "mine" / "adapters")
    example = block(README, "python", "fine_tuning").replace(
        "http://127.0.0.1:8000/v1", served.base_url
    )
    example = example.replace("data/poems.jsonl", str(few_poems(tmp_path)))
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", example],
        check=False,
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert ran.returncode == 0, ran.stderr
    assert "The job succeeded" in ran.stdout
    assert "\nmine@2 " in ran.stdout
    assert "\nmine " in ran.stdout
    assert (tmp_path / "mine" / "state" / "state.sqlite").exists()


@pytest.mark.network  # all endpoints in a minute; tests/server/jobs has them without a model
def test_the_sdk_manages_files_and_jobs(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    client = serve("--jobs", adapters=tmp_path / "mine" / "adapters").client
    bad = client.files.create(file=("bad.jsonl", b'{"messages": []}\n'), purpose="fine-tune")
    good = client.files.create(file=few_poems(tmp_path), purpose="fine-tune")
    assert [file.id for file in client.files.list(purpose="fine-tune")] == [good.id, bad.id]
    assert client.files.content(bad.id).read() == b'{"messages": []}\n'
    extra: Any = {"verse": {"save_every": 1, "iters": 500, "num_layers": 1}}
    long = client.fine_tuning.jobs.create(
        training_file=good.id, model="verse-tiny", extra_body=extra
    )
    failing = client.fine_tuning.jobs.create(training_file=bad.id, model="verse-tiny")
    until(client, failing.id)
    error = client.fine_tuning.jobs.retrieve(failing.id).error
    assert error is not None
    assert (error.code, error.param) == ("invalid_training_file", "training_file")
    assert (error.message or "").startswith("bad.jsonl:1: ")
    while not client.fine_tuning.jobs.checkpoints.list(long.id).data:
        time.sleep(0.1)
    paused: Any = client.fine_tuning.jobs.pause(long.id)
    assert paused.status == "paused"
    assert client.fine_tuning.jobs.resume(long.id).status == "queued"
    assert client.fine_tuning.jobs.cancel(long.id).status == "cancelled"
    assert [job.id for job in client.fine_tuning.jobs.list()] == [failing.id, long.id]
    assert client.files.delete(bad.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.files.retrieve(bad.id)
    with pytest.raises(openai.BadRequestError):
        client.fine_tuning.jobs.create(training_file=bad.id, model="verse-tiny")


@pytest.mark.network  # half a minute
def test_preferences_are_learned_on_top_of_a_checkpoint(serve: Serve, tmp_path: Path) -> None:
    folder = tmp_path / "mine" / "adapters"
    shutil.copytree(ROOT / "adapters" / "xuzhimo", folder / "xuzhimo")
    client = serve("--jobs", adapters=folder).client
    pairs = client.files.create(file=("pairs.jsonl", pairs_of_poems()), purpose="fine-tune")
    extra: Any = {"verse": {"iters": 6, "steps_per_report": 1}}
    job = client.fine_tuning.jobs.create(
        training_file=pairs.id,
        model="xuzhimo@best",
        suffix="better",
        method={"type": "dpo", "dpo": {"hyperparameters": {"beta": 0.2}}},
        extra_body=extra,
    )
    assert job.model == "xuzhimo@64"
    until(client, job.id)
    job = client.fine_tuning.jobs.retrieve(job.id)
    assert (job.status, job.error, job.fine_tuned_model) == ("succeeded", None, "better")
    [result] = job.result_files
    assert client.files.retrieve(result).purpose == "fine-tune-results"
    head, *rows = client.files.content(result).text.splitlines()
    assert head == "step,train_loss,valid_loss"
    assert [int(row.split(",")[0]) for row in rows] == list(range(1, 7))
    began, ended = (client.models.retrieve(name) for name in ("xuzhimo@64", "better"))
    assert began.model_extra != ended.model_extra


@pytest.mark.network  # half a minute
def test_the_base_makes_room_for_a_job_and_comes_back(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    served = serve(
        "--jobs", "--release-base-while-training", adapters=tmp_path / "mine" / "adapters"
    )
    client = served.client
    file = client.files.create(file=few_poems(tmp_path), purpose="fine-tune")
    extra: Any = {"verse": {"iters": 4}}
    job = client.fine_tuning.jobs.create(
        training_file=file.id, model="verse-tiny", extra_body=extra
    )
    refused: openai.APIStatusError | None = None
    deadline = time.monotonic() + 120
    while refused is None:  # 503 and nothing else
        assert time.monotonic() < deadline
        try:
            write_a_line(client)
        except openai.InternalServerError as error:
            refused = error
    assert refused.status_code == 503
    assert int(refused.response.headers["retry-after"]) > 0
    until(client, job.id)
    assert client.fine_tuning.jobs.retrieve(job.id).status == "succeeded"
    assert client.with_options(max_retries=20).chat.completions.create(**LINE).choices


LINE: Any = {"model": "base", "messages": [{"role": "user", "content": "河"}], "max_tokens": 4}


def write_a_line(client: openai.OpenAI) -> None:
    client.chat.completions.create(**LINE)


def pairs_of_poems() -> bytes:
    poems = (ROOT / "data" / "poems.jsonl").read_text("utf-8").splitlines()[:8]
    rows: list[dict[str, Any]] = []
    for poem in map(json.loads, poems):
        asked = {"messages": [{"role": "user", "content": poem["theme"]}]}
        answers = {"preferred_output": poem["text"], "non_preferred_output": poem["text"][::-1]}
        rows.append(
            {"input": asked}
            | {name: [{"role": "assistant", "content": text}] for name, text in answers.items()}
        )
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def until(client: openai.OpenAI, id_: str) -> None:
    deadline = time.monotonic() + 120
    while client.fine_tuning.jobs.retrieve(id_).status not in ENDED:
        assert time.monotonic() < deadline
        time.sleep(0.1)
