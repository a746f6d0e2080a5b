"""`verse generate --batch` against a server that keeps batches: asked once, all of it fetched."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.clients.fake_openai import FakeOpenAI
from tests.clients.generate.conftest import poems_in, texts, verse_generate

OPTIONS = ("-a", "hushi,base", "--checkpoints", "all", "-n", "2")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("verse_clients.generate.batching._FIRST_LOOK_SECONDS", 0.01)


def test_it_writes_what_single_requests_write(fake: FakeOpenAI) -> None:
    assert verse_generate(fake, *OPTIONS, "--temperature", "0.7", "-o", "single.jsonl") == 0
    num_single = fake.num_calls
    assert (
        verse_generate(fake, *OPTIONS, "--temperature", "0.7", "-o", "batch.jsonl", "--batch") == 0
    )
    assert fake.num_calls == num_single
    single, batch = poems_in("single.jsonl"), poems_in("batch.jsonl")
    assert {poem.id for poem in batch} == {poem.id for poem in single}
    assert texts(batch) == texts(single)
    assert {(p.seed, p.digest, p.completion_tokens) for p in batch} == {
        (p.seed, p.digest, p.completion_tokens) for p in single
    }
    assert fake.batches.num_begun == 1
    (rows,) = fake.batches.rows
    assert {row["url"] for row in rows} == {"/v1/chat/completions"}
    assert not Path("batch.jsonl.batch.json").exists()


def test_a_second_run_begins_no_batch_and_a_larger_plan_only_what_is_new(fake: FakeOpenAI) -> None:
    assert verse_generate(fake, "-n", "1", "--batch") == 0
    assert verse_generate(fake, "-n", "1", "--batch") == 0
    assert fake.batches.num_begun == 1
    assert verse_generate(fake, "-n", "2", "--batch") == 0
    assert [len(rows) for rows in fake.batches.rows] == [6, 6]


def test_who_is_stopped_while_waiting_fetches_the_same_batch(fake: FakeOpenAI) -> None:
    fake.batches.looks_until_done = 10**6
    fake.batches.fail_after_looks = 3
    assert verse_generate(fake, "--batch", "--wait", "0") == 2
    assert json.loads(Path("poems.jsonl.batch.json").read_text())["base_url"] == fake.base_url
    fake.batches.looks_until_done = 0
    fake.batches.fail_after_looks = None
    assert verse_generate(fake, "--batch") == 0
    assert fake.batches.num_begun == 1
    assert len(poems_in("poems.jsonl")) == 6


def test_a_batch_of_which_nobody_heard_is_found(fake: FakeOpenAI) -> None:
    fake.batches.looks_until_done = 10**6
    fake.batches.fail_after_looks = 1
    assert verse_generate(fake, "--batch", "--wait", "0") == 2
    Path("poems.jsonl.batch.json").unlink()
    fake.batches.looks_until_done = 0
    fake.batches.fail_after_looks = None
    assert verse_generate(fake, "--batch") == 0
    assert fake.batches.num_begun == 1


def test_a_batch_that_the_server_has_lost_is_begun_anew(fake: FakeOpenAI) -> None:
    note = {"id": "batch_lost", "base_url": fake.base_url}
    Path("poems.jsonl.batch.json").write_text(json.dumps(note))
    assert verse_generate(fake, "--batch") == 0
    assert fake.batches.num_begun == 1


def test_what_was_kept_before_is_not_kept_again(fake: FakeOpenAI) -> None:
    fake.batches.looks_until_done = 10**6
    fake.batches.fail_after_looks = 1
    assert verse_generate(fake, "--batch", "--wait", "0") == 2
    fake.batches.looks_until_done = 0
    fake.batches.fail_after_looks = None
    assert verse_generate(fake, "-n", "1") == 0  # somebody did not want to wait
    assert verse_generate(fake, "-n", "2", "--batch") == 0
    assert len(poems_in("poems.jsonl")) == 12
    assert [len(rows) for rows in fake.batches.rows] == [6, 6]


def test_poems_that_fail_are_told_and_the_others_kept(
    fake: FakeOpenAI, capfd: pytest.CaptureFixture[str]
) -> None:
    def is_hopeless(body: Any) -> bool:
        return body["messages"][0]["content"] == "雨"

    fake.batches.fails = is_hopeless
    assert verse_generate(fake, "-a", "hushi", "--batch") == 2
    assert "as the test wishes" in (told := capfd.readouterr().err)
    assert "run the same command again" in told
    assert len(poems_in("poems.jsonl")) == 2
    fake.batches.fails = lambda _: False
    assert verse_generate(fake, "-a", "hushi", "--batch") == 0
    assert [len(rows) for rows in fake.batches.rows] == [3, 1]


def test_a_server_without_jobs_says_what_to_do(
    fake: FakeOpenAI, capfd: pytest.CaptureFixture[str]
) -> None:
    fake.batches.are_off = True
    assert verse_generate(fake, "--batch") == 2
    assert "verse serve --jobs" in capfd.readouterr().err
