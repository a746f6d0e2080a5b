"""kill -9 of the whole server at random moments, over uploads and jobs: nothing lost or doubled."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

_SERVE = Path(__file__).with_name("serve_jobs.py")
_MOMENTS = int(os.environ.get("VERSE_KILLS", "3"))
JOBS = "/v1/fine_tuning/jobs"


@contextmanager
def served(folder: Path) -> Generator[tuple[httpx.Client, "subprocess.Popen[str]"]]:
    command = [sys.executable, str(_SERVE), str(folder)]
    environment = {**os.environ, "FAKE_STEPS": "30"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        with httpx.Client(base_url=address, timeout=60) as client:
            yield client, process
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def upload(client: httpx.Client, name: str) -> str:
    files = {"file": (name, b'{"theme": "a"}\n' * 20_000)}
    answer = client.post("/v1/files", files=files, data={"purpose": "fine-tune"})
    return answer.raise_for_status().json()["id"]


def create(client: httpx.Client, file: str, suffix: str) -> str:
    body = {"model": "verse-tiny", "training_file": file, "suffix": suffix}
    return client.post(JOBS, json=body).raise_for_status().json()["id"]


def every(client: httpx.Client, path: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    after: dict[str, str] = {}
    while True:
        page = client.get(path, params={"limit": 100, **after}).raise_for_status().json()
        found += page["data"]
        if not page["has_more"]:
            return found
        after = {"after": found[-1]["id"]}


@pytest.mark.slow
def test_a_server_killed_at_any_moment_loses_and_doubles_nothing(tmp_path: Path) -> None:
    draw = random.Random(7)
    files: list[str] = []
    jobs: list[str] = []
    for number in range(_MOMENTS):
        with served(tmp_path) as (client, process):
            moment = time.monotonic() + draw.uniform(0.05, 1.0)
            with suppress(httpx.HTTPError):  # it is killed in the middle of one of these
                files.append(upload(client, f"{number}.jsonl"))
                jobs.append(create(client, files[-1], f"job{number}"))
                while time.monotonic() < moment:
                    upload_id = upload(client, f"{number}-more.jsonl")
                    files.append(upload_id)
            time.sleep(max(0.0, moment - time.monotonic()))
            process.send_signal(signal.SIGKILL)
            process.wait()
    with served(tmp_path) as (client, _):
        # Beside them a job may leave its results at any moment.
        listed = [f for f in every(client, "/v1/files") if f["purpose"] == "fine-tune"]
        ids = [file["id"] for file in listed]
        assert len(ids) == len(set(ids))
        assert set(files) <= set(ids), "a file that was confirmed is lost"
        for file in listed:
            content = client.get(f"/v1/files/{file['id']}/content").raise_for_status()
            assert len(content.content) == file["bytes"] == 300_000
        known = [job["id"] for job in every(client, JOBS)]
        assert len(known) == len(set(known))
        assert set(jobs) <= set(known), "a job that was confirmed is lost"
        deadline = time.monotonic() + 100
        while any(job["status"] != "succeeded" for job in every(client, JOBS)):
            assert time.monotonic() < deadline, every(client, JOBS)
            time.sleep(0.05)
        for id_ in known:
            steps = [c["step_number"] for c in every(client, f"{JOBS}/{id_}/checkpoints")]
            assert len(steps) == len(set(steps))
            assert set(range(2, 31, 2)) <= set(steps)
            losses = [
                e["data"]["step"]
                for e in every(client, f"{JOBS}/{id_}/events")
                if "train_loss" in e["data"]
            ]
            assert sorted(losses) == list(range(1, 31)), "a step is lost or told twice"
        results = [name for job in every(client, JOBS) for name in job["result_files"]]
        assert len(results) == len(known), "a job has no results, or two"
        assert {file["id"] for file in every(client, "/v1/files")} == {*ids, *results}
        on_disk = {path.name for path in (tmp_path / "state" / "files").iterdir()}
        assert on_disk == {*ids, *results}, "something half-written is left"
    print(f"{_MOMENTS} kills, {len(files)} files, {len(known)} jobs: 0 lost, 0 doubled")  # noqa: T201
