"""Servers that go away or refuse, and mistakes on the command line: one sentence, nothing lost."""

import json
import threading
from pathlib import Path

import pytest

from tests.clients.fake_openai import Failure, FakeOpenAI, Reply, Script, model
from tests.clients.judge.conftest import (
    CACHE,
    NUM_POEMS,
    num_lines,
    questions,
    ranked,
    verse_judge,
    wait_for,
)
from tests.clients.judge.simulated import noisy, poems, qualities, scores
from verse import jsonl


def test_a_server_that_goes_away_is_waited_for(capfd: pytest.CaptureFixture[str]) -> None:
    truth = qualities(poems(NUM_POEMS))
    one = FakeOpenAI(script=Script(write=noisy(truth)))
    port = one.port
    codes: list[int] = []
    with one:
        one.script.gate, one.script.free_calls = threading.Event(), 5
        run = threading.Thread(target=lambda: codes.append(verse_judge(one.base_url)))
        run.start()
        wait_for(lambda: num_lines(CACHE) == 5)
    with FakeOpenAI(port, Script(write=noisy(truth))) as again:
        run.join(60)
        assert codes == [0]
        assert again.num_calls > 0
    said = capfd.readouterr().err
    assert said.count(f"No server answers at http://127.0.0.1:{port}/v1. Waiting up to") == 1
    assert "failed" not in ranked().judges[0].outcomes


def test_a_long_wait_ends_the_run_and_the_next_one_goes_on(
    fake: FakeOpenAI, capfd: pytest.CaptureFixture[str]
) -> None:
    fake.fail(Reply(scores(3)), Failure(429, "slow down", retry_after="900"))
    options = ["--wait", "60", "--concurrency", "1"]
    assert verse_judge(fake, *options) == 2
    said = capfd.readouterr().err
    assert said.count("\n") == 1
    assert "answered 429" in said
    assert "run the same command again to continue" in said
    assert num_lines(CACHE) == 1
    assert verse_judge(fake, *options) == 0
    assert len(set(questions(fake))) == fake.num_calls - 1


def test_a_server_that_refuses_everything_is_not_asked_for_everything(
    fake: FakeOpenAI, capfd: pytest.CaptureFixture[str]
) -> None:
    fake.fail(*[Failure(400, "too long", code="context_length_exceeded")] * 99)
    assert verse_judge(fake, "--concurrency", "1") == 2
    assert fake.num_calls == 5
    assert "too long" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("options", "script", "said"),
    [
        ([], Script(key="sk-right"), "wants an API key; set OPENAI_API_KEY or give --api-key."),
        (["--key-env", "MY_KEY"], Script(key="sk-right"), "--api-key. MY_KEY is not set."),
        (["--judge", "gpt-9"], Script(), "The model 'gpt-9' does not exist"),
        (["--judge", "a", "--judge", "b", "--key-env", "A", "--key-env", "B", "--key-env", "C"],
         Script(), "2 judges but 3 --key-env"),
        (["--api-key", "sk-1", "--key-env", "A"], Script(), "--api-key or --key-env, not both"),
        (["--api-key", "sk-1"], Script(key="sk-right"), "does not accept the API key. Answers"),
        (["--judge", "a", "--judge", "a"], Script(), "given twice"),
        (["-i", "nowhere.jsonl"], Script(), "nowhere.jsonl cannot be read"),
        (["-i", "zero.json"], Script(), "zero.json:1: poem 1: it has no poem"),
        (["--training", "zero.json"], Script(), "holds no poems"),
        (["--examples", "nowhere.jsonl"], Script(), "nowhere.jsonl cannot be read"),
        (["--weights", "notes.txt"], Script(), "notes.txt holds no weights"),
        (["--weights", "zero.json"], Script(), "gives every criterion the weight 0"),
        (["-o", "notes.txt"], Script(), "notes.txt is not a ranking from verse judge"),
        (["-o", "poems.jsonl"], Script(), "poems.jsonl is not a ranking from verse judge"),
        (["-o", "nowhere/ranked.json"], Script(), "cannot be written"),
        (["--cache", "notes.txt"], Script(), "holds no judgments; name another --cache"),
        (["--price", "cheap"], Script(), "is not two numbers"),
        (["--price", "nan,2"], Script(), "is not two numbers"),
        (["--price", "-1,2"], Script(), "is not two numbers"),
    ],
)  # fmt: skip
def test_each_mistake_is_one_sentence_and_loses_nothing(
    options: list[str], script: Script, said: str, fake: FakeOpenAI,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    Path("notes.txt").write_text("三月的雨\n", "utf-8")
    zero = dict.fromkeys(("theme_adherence", "poetic_quality", "fluency", "emotional_resonance"), 0)
    Path("zero.json").write_text(json.dumps({"weights": zero}), "utf-8")
    before = {path: path.read_bytes() for path in Path().iterdir()}
    fake.script = script
    assert verse_judge(fake, *options) == 2
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 1
    assert said in lines[0]
    assert {path: path.read_bytes() for path in before} == before
    assert not Path("ranked.json").exists()


def test_a_wrong_key_is_told(
    fake: FakeOpenAI, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-wrong")
    fake.script.key = "sk-right"
    assert verse_judge(fake) == 2
    said = capfd.readouterr().err
    assert "does not accept the API key. Answers so far are saved" in said
    monkeypatch.setenv("OPENAI_API_KEY", "sk-right")
    assert verse_judge(fake) == 0


def test_the_ranking_of_other_poems_is_not_replaced(
    fake: FakeOpenAI, capfd: pytest.CaptureFixture[str]
) -> None:
    assert verse_judge(fake) == 0
    before = Path("ranked.json").read_bytes()
    others = poems(NUM_POEMS + 2)
    fake.script.write = noisy(qualities(others))
    jsonl.append(Path("others.jsonl"), *others[3:])
    assert verse_judge(fake, "-i", "others.jsonl") == 2
    assert "ranks 3 poems that are not in the input" in capfd.readouterr().err
    assert Path("ranked.json").read_bytes() == before
    assert verse_judge(fake, "-i", "poems.jsonl", "-i", "others.jsonl") == 0
    assert len(ranked().poems) == NUM_POEMS + 2


def test_no_server_at_all_is_told(capfd: pytest.CaptureFixture[str]) -> None:
    assert verse_judge("http://127.0.0.1:9/v1", "--wait", "0") == 2
    assert "No server answers at http://127.0.0.1:9/v1." in capfd.readouterr().err


@pytest.mark.parametrize("context", [60, 700])
def test_a_judge_whose_context_is_too_short_is_told_so_before_the_first_question(
    context: int, fake: FakeOpenAI, capfd: pytest.CaptureFixture[str]
) -> None:
    fake.script.context = context
    for option in ("--json", "--dry-run"):
        assert verse_judge(fake, option) == 2
        said = capfd.readouterr().err
        assert said.count("\n") == 1
        assert f"The judge base at {fake.base_url} has a context of {context} tokens, and" in said
        assert said.endswith("name another --judge, or --judge likelihood.\n")
    assert fake.num_calls == 0
    fake.script.context = 100_000
    assert verse_judge(fake) == 0


@pytest.mark.parametrize("listed", [{"meta": {"n_ctx": 300}}, {"max_model_len": 300}])
def test_a_context_that_is_only_listed_is_held_against_the_least_that_a_question_takes(
    listed: dict[str, object], fake: FakeOpenAI, capfd: pytest.CaptureFixture[str]
) -> None:
    fake.script.models = [model("base", parent=None) | listed]
    assert verse_judge(fake) == 2
    assert "has a context of 300 tokens, and a rubric question" in capfd.readouterr().err
    assert fake.num_calls == 0
    for more in ({"meta": {"n_ctx": 4096}}, {"meta": "anything", "max_model_len": "?"}):
        fake.script.models = [model("base", parent=None) | more]
        assert verse_judge(fake, "-o", "other.json", "--cache", f"{len(more)}.jsonl") == 0
