"""The command against a server that counts, and fails when told to."""

import itertools
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec
import pytest

from tests.clients.fake_openai import Body, Failure, FakeOpenAI, Raw, Reply, Script
from tests.clients.judge.conftest import (
    CACHE,
    NUM_POEMS,
    num_lines,
    questions,
    ranked,
    verse_judge,
    wait_for,
)
from tests.clients.judge.simulated import first, is_ranking, noisy, poems, qualities, scores, shown
from verse import jsonl
from verse.records import Candidate, Poem
from verse_clients.decisions.sources import read_items
from verse_clients.judge.judgments import read_judgments
from verse_clients.judge.metrics import spearman
from verse_clients.judge.ranked import Ranked

VERSE = Path(sys.executable).with_name("verse")


def agreement(made: Ranked, truth: Mapping[str, float]) -> float:
    """Rank correlation with the truth."""
    ranks = [-(poem.rank or 0) for poem in made.poems]
    return spearman(ranks, [truth[poem.candidate.text] for poem in made.poems]) or 0.0


def test_poems_are_ranked_and_the_file_opens_in_curate(
    fake: FakeOpenAI, written: list[Candidate], capfd: pytest.CaptureFixture[str]
) -> None:
    assert verse_judge(fake) == 0
    made = ranked()
    assert [poem.rank for poem in made.poems] == list(range(1, NUM_POEMS + 1))
    assert agreement(made, qualities(written)) > 0.5
    items = read_items([Path("ranked.json")])
    assert [item.rank for item in items] == list(range(1, NUM_POEMS + 1))
    assert [item.score for item in items] == sorted(
        (item.score for item in items if item.score is not None), reverse=True
    )
    assert {item.candidate.adapter for item in items} == {"xuzhimo"}
    for poem in made.poems:
        if poem.rank_low is not None and poem.rank_high is not None:
            assert poem.rank is not None
            assert poem.rank_low <= poem.rank <= poem.rank_high
    told = capfd.readouterr().out
    assert re.search(r"\d \(\d+-\d+\)", told)
    assert "xuzhimo" not in told


def test_a_planted_ranking_comes_back_through_the_server(fake: FakeOpenAI) -> None:
    many = poems(60)
    Path("poems.jsonl").unlink()
    jsonl.append(Path("poems.jsonl"), *many)
    fake.script.write = noisy(qualities(many))
    assert verse_judge(fake, "--margin", "5", "--concurrency", "8") == 0
    made = ranked()
    assert len(made.comparisons) == 60
    assert {len(each.shown) for each in made.comparisons} == {5}
    assert agreement(made, qualities(many)) >= 0.8


def test_no_request_holds_where_a_poem_comes_from(
    fake: FakeOpenAI, written: list[Candidate]
) -> None:
    assert verse_judge(fake) == 0
    sent = json.dumps(fake.asked, ensure_ascii=False)
    assert written[0].text.splitlines()[0] in sent
    ids = [poem.id for poem in written]
    for hidden in ("xuzhimo", "checkpoint", "adapter", "poems.jsonl", "ranked", *ids):
        assert hidden not in sent.replace('"name": "ranking"', "").replace('"ranking"', "")
    assert len({tuple(shown(body)) for body in fake.asked if is_ranking(body)}) > 1


def test_a_second_run_asks_nothing_and_makes_the_same_file(fake: FakeOpenAI) -> None:
    assert verse_judge(fake) == 0
    made, calls = Path("ranked.json").read_bytes(), fake.num_calls
    assert len(set(questions(fake))) == calls
    assert verse_judge(fake) == 0
    assert fake.num_calls == calls
    assert Path("ranked.json").read_bytes() == made


@pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")
def test_killed_and_started_again_it_repeats_no_call_and_makes_the_same_file(
    fake: FakeOpenAI,
) -> None:
    free_calls = NUM_POEMS + 4  # amid the comparisons
    assert verse_judge(fake, "-o", "whole.json", "--concurrency", "2") == 0
    all_calls = Counter(questions(fake))
    fake.asked.clear()
    gate = fake.script.gate = threading.Event()
    fake.script.free_calls = free_calls
    command = [VERSE, "judge", "--base-url", fake.base_url, "--concurrency", "2"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: num_lines(CACHE) == free_calls and fake.num_calls > free_calls)
    finally:
        process.kill()
    assert process.wait(60) == -signal.SIGKILL
    answered = Counter(questions(fake)[:free_calls])
    fake.script.gate = None
    gate.set()
    fake.asked.clear()
    assert verse_judge(fake, "--concurrency", "3") == 0
    assert Counter(questions(fake)) == all_calls - answered
    assert Path("ranked.json").read_bytes() == Path("whole.json").read_bytes()


def test_a_line_cut_off_by_a_kill_is_kept_aside_and_asked_again(
    fake: FakeOpenAI, capfd: pytest.CaptureFixture[str]
) -> None:
    assert verse_judge(fake) == 0
    made, calls = Path("ranked.json").read_bytes(), fake.num_calls
    CACHE.write_bytes(CACHE.read_bytes()[:-20])
    assert verse_judge(fake) == 0
    assert fake.num_calls == calls + 1
    assert "ranked.judgments.jsonl.torn" in capfd.readouterr().err
    assert Path("ranked.json").read_bytes() == made


def test_every_answer_that_is_none_is_counted_and_never_a_score(
    fake: FakeOpenAI, capfd: pytest.CaptureFixture[str]
) -> None:
    fake.fail(
        Reply("写得真好！给5分。"),
        Reply("", refusal="I cannot judge this."),
        Reply(scores(5), finish_reason="length"),
        Reply(scores(5), finish_reason="content_filter"),
        Failure(400, "too long", code="context_length_exceeded"),
        Failure(500), Failure(500),
        Raw(b"<html>", "text/html"), "close",
    )  # fmt: skip
    options = ["--concurrency", "1", "--compare", "none"]
    assert verse_judge(fake, *options) == 0
    made = ranked()
    counted = Counter(judgment.outcome for judgment in read_judgments(CACHE))
    assert made.judges[0].outcomes == dict(sorted(counted.items()))
    assert counted["unparsed"] == 1
    assert counted["refused"] == 2
    assert counted["truncated"] == 1
    assert counted["failed"] == 2
    assert counted.total() == NUM_POEMS
    assert sum(poem.score is not None for poem in made.poems) == counted["judged"]
    assert [poem.rank for poem in made.poems if poem.score is None] == [None] * 6
    assert "1 unparsed" in capfd.readouterr().out.replace("\n", " ")
    # What failed is asked again, what was answered is not, unless it is wished.
    calls = fake.num_calls
    assert verse_judge(fake, *options) == 0
    assert fake.num_calls == calls + 2
    assert verse_judge(fake, *options, "--ask-again") == 0
    assert fake.num_calls == calls + 2 + 4
    assert all(poem.rank for poem in ranked().poems)


def test_a_judge_that_only_talks_is_told_in_one_sentence(
    fake: FakeOpenAI, capfd: pytest.CaptureFixture[str]
) -> None:
    fake.script.write = lambda _: "这是一首好诗，\n意境深远。"
    assert verse_judge(fake) == 2
    said = capfd.readouterr().err
    assert said.count("\n") == 1
    assert "No answer was usable (12 unparsed)" in said
    assert "这是一首好诗， 意境深远。" in said
    assert num_lines(CACHE) == NUM_POEMS
    assert not Path("ranked.json").exists()
    assert verse_judge(fake) == 2
    assert fake.num_calls == NUM_POEMS


def test_a_judge_that_answers_in_words_is_read(fake: FakeOpenAI) -> None:
    def talk(body: Body) -> str:
        if is_ranking(body):
            return "我的排序是：" + " > ".join(sorted(shown(body)))
        return "切题：3 分，诗意与创造：2 分，流畅连贯：4 分，情感共鸣：1 分。"

    fake.script.write = talk
    assert verse_judge(fake) == 0
    assert ranked().judges[0].outcomes["judged"] == fake.num_calls
    assert ranked().poems[0].total == pytest.approx(2.5)
    assert "base gave 12 of 12 poems the same scores, which tell nothing." in ranked().notes


def test_the_form_a_server_takes_is_found_once_and_remembered(fake: FakeOpenAI) -> None:
    class OnlyJson:
        def __init__(self, write: Callable[[Body], str | Reply]) -> None:
            self.write = write

        def __call__(self, body: Body) -> str | Reply:
            assert body.get("response_format", {}).get("type") == "json_object"
            assert "max_tokens" not in body
            assert "temperature" not in body
            return self.write(body)

    fake.fail(
        Failure(400, "Use max_completion_tokens instead of max_tokens."),
        Failure(400, "Only the default temperature is supported."),
        Failure(400, "response_format json_schema is not supported"),
    )
    fake.script.write = OnlyJson(fake.script.write)
    assert verse_judge(fake, "--compare", "none", "--concurrency", "4") == 0
    assert fake.num_calls == 3 + NUM_POEMS
    assert {judgment.format for judgment in read_judgments(CACHE)} == {"json_object"}
    fake.script.write = first
    fake.asked.clear()
    assert verse_judge(fake, "--rounds", "1") == 0
    assert {body["response_format"]["type"] for body in fake.asked} == {"json_object"}


def test_several_judges_are_paired_with_their_servers_and_their_disagreement_is_told(
    fake: FakeOpenAI, written: list[Candidate], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTHER_KEY", "sk-other")
    with FakeOpenAI(script=Script(write=first, strict_models=False)) as other:
        options = ["--judge", "base", "--judge", "another", "--base-url", other.base_url]
        keys = ["--key-env", "OPENAI_API_KEY", "--key-env", "OTHER_KEY"]
        assert verse_judge(fake, *options, *keys) == 0
        assert {body["model"] for body in fake.asked} == {"base"}
        assert {body["model"] for body in other.asked} == {"another"}
        assert {sent["authorization"] for sent in other.headers} == {"Bearer sk-other"}
        assert {sent["authorization"] for sent in fake.headers} == {"Bearer unused"}
    made = ranked()
    assert [judge.name for judge in made.judges] == ["base", "another"]
    assert all(set(poem.by_judge) == {"base", "another"} for poem in made.poems)
    assert any(poem.disagreement for poem in made.poems)
    assert {each.judge for each in made.comparisons} == {"base", "another"}


def test_keys_on_the_command_line_go_each_to_its_own_server(
    fake: FakeOpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-nobody-here")
    with FakeOpenAI(script=Script(write=first, strict_models=False)) as other:
        options = ["--judge", "base", "--judge", "another", "--base-url", other.base_url]
        options += ["--compare", "none", "--api-key", "sk-one", "--api-key", "sk-two"]
        assert verse_judge(fake, *options) == 0
        assert {sent["authorization"] for sent in fake.headers} == {"Bearer sk-one"}
        assert {sent["authorization"] for sent in other.headers} == {"Bearer sk-two"}


def test_pairs_are_shown_in_both_orders(fake: FakeOpenAI) -> None:
    assert verse_judge(fake, "--compare", "pairs", "--rounds", "1") == 0
    pairs = [each.shown for each in ranked().comparisons]
    assert pairs
    assert all(pair[::-1] in pairs for pair in pairs)


def test_what_filters_leave_out_is_kept_with_its_reason_and_never_asked(
    fake: FakeOpenAI, written: list[Candidate]
) -> None:
    copied = "井台上结着薄薄的一层霜"
    bad = [
        Candidate(theme="灯", text=""),
        Candidate(theme="灯", text="灯亮了"),
        Candidate(theme="灯", text=copied),
        msgspec.structs.replace(written[0], id="again"),
    ]
    jsonl.append(Path("poems.jsonl"), *bad)
    jsonl.append(Path("mine.jsonl"), Poem(theme="霜", text=copied))
    assert verse_judge(fake, "--training", "mine.jsonl") == 0
    made = ranked()
    assert made.filtered == {"copy": 1, "empty": 1, "near": 1, "short": 1}
    left_out = {poem.candidate.id: poem for poem in made.poems if poem.filtered}
    assert set(left_out) == {poem.id for poem in bad}
    assert all(poem.rank is None and poem.score is None for poem in left_out.values())
    assert copied not in "".join(questions(fake))


def test_examples_are_shown_to_the_judge_and_marked(
    fake: FakeOpenAI, written: list[Candidate]
) -> None:
    taste = [
        Poem(theme="松", text=written[0].text),
        Poem(theme="雪", text="雪落在井台上，没有声音"),
    ]
    jsonl.append(Path("taste.jsonl"), *taste)
    assert verse_judge(fake, "--examples", "taste.jsonl", "--compare", "none") == 0
    assert all("雪落在井台上，没有声音" in body["messages"][0]["content"] for body in fake.asked)
    assert [p.candidate.id for p in ranked().poems if p.seen == "example"] == [written[0].id]


def test_weights_change_the_order_without_a_single_call(fake: FakeOpenAI) -> None:
    counter = itertools.count()

    def opposed(_: Body) -> str:
        value = next(counter) % 6
        return json.dumps({
            "theme_adherence": value, "poetic_quality": 0, "fluency": 5 - value,
            "emotional_resonance": 0,
        })  # fmt: skip

    fake.script.write = opposed
    assert verse_judge(fake, "--compare", "none") == 0
    calls = fake.num_calls
    weights = {"theme_adherence": 1, "poetic_quality": 0, "fluency": 0, "emotional_resonance": 0}
    Path("weights.json").write_text(json.dumps({"weights": weights}), "utf-8")
    assert verse_judge(fake, "--compare", "none", "--weights", "weights.json") == 0
    assert fake.num_calls == calls
    best = ranked().poems[0]
    assert best.rubric is not None
    assert best.score == best.rubric.theme_adherence == 5


def test_english_instructions_are_asked_for_by_a_flag(fake: FakeOpenAI) -> None:
    fake.script.write = lambda _: scores(3)
    assert verse_judge(fake, "--language", "en", "--compare", "none") == 0
    assert ranked().prompts == ("rubric-en-1",)
    assert "You are an editor" in fake.asked[0]["messages"][0]["content"]
