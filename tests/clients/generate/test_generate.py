"""`verse generate` against a server that counts: nothing twice, nothing lost, one sentence each."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.clients.fake_openai import Failure, FakeOpenAI, Raw, Reply, Script, Trouble
from tests.clients.generate.conftest import poems_in, texts, verse_generate
from verse import cli, jsonl
from verse.records import Poem, Sampling

VERSE = Path(sys.executable).with_name("verse")


def wait_for(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.01)


def num_lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def test_the_whole_matrix_is_written_with_all_it_takes_to_write_it_again(fake: FakeOpenAI) -> None:
    Path("variants.txt").write_text("{theme}\n写{theme}\n", "utf-8")
    options = ["-a", "hushi,base", "--checkpoints", "all", "--variants", "variants.txt", "-n", "2"]
    assert verse_generate(fake, *options, "--temperature", "0.7", "-o", "poems.jsonl") == 0
    poems = poems_in("poems.jsonl")
    assert len(poems) == fake.num_calls == 3 * 3 * 2 * 2
    assert {poem.model for poem in poems} == {"base", "hushi@80", "hushi@160"}
    asked = {(b["model"], b["messages"][0]["content"], b["seed"]) for b in fake.asked}
    for poem in poems:
        prompt = poem.theme if poem.variant is None else f"写{poem.theme}"
        assert (poem.model, prompt, poem.seed) in asked
        assert poem.sampling == Sampling(temperature=0.7, max_tokens=400)
        assert (poem.prompt_tokens, poem.completion_tokens) == (7, 11)
        assert (poem.finish_reason, poem.raw, poem.blocked) == ("stop", None, None)
        assert poem.digest == f"fp-{poem.model}"
        assert poem.server == fake.base_url
        assert poem.time is not None
    assert {body["temperature"] for body in fake.asked} == {0.7}
    assert {headers["x-verse-priority"] for headers in fake.headers} == {"batch"}
    assert len({body["seed"] for body in fake.asked}) == fake.num_calls


def test_a_second_run_asks_nothing_and_a_larger_plan_only_what_is_new(fake: FakeOpenAI) -> None:
    assert verse_generate(fake, "-n", "2") == 0
    assert verse_generate(fake, "-n", "2") == 0
    assert fake.num_calls == 2 * 3 * 2
    assert verse_generate(fake, "-n", "3") == 0
    assert fake.num_calls == len({body["seed"] for body in fake.asked}) == 2 * 3 * 3


@pytest.mark.parametrize("is_replaced", [False, True])
def test_a_file_that_is_removed_while_it_is_written_loses_no_poem_and_is_told(
    fake: FakeOpenAI, capfd: pytest.CaptureFixture[str], is_replaced: bool
) -> None:
    path, other = Path("poems.jsonl"), Path("other")
    gate = fake.script.gate = threading.Event()
    fake.script.free_calls = 23

    def interfere() -> None:
        wait_for(lambda: num_lines(path) == 23)
        if is_replaced:
            other.write_text('{"theme": "信", "text": "另一首"}\n', "utf-8")
            other.replace(path)
        else:
            path.unlink()
        fake.script.gate = None
        gate.set()

    thread = threading.Thread(target=interfere)
    thread.start()
    code = verse_generate(fake, "-a", "hushi", "-n", "16", "--concurrency", "4")
    thread.join()
    assert code == 2
    kept = Path("poems.recovered.jsonl") if is_replaced else path
    assert len({poem.id for poem in poems_in(kept)}) == 3 * 16
    told = capfd.readouterr().err
    assert ("poems.jsonl was replaced by another" if is_replaced else "jsonl was removed") in told
    assert f"all poems are in {kept}." in told
    assert num_lines(path) == (1 if is_replaced else 3 * 16)


def test_another_plan_is_refused_unless_the_file_is_to_be_extended(
    fake: FakeOpenAI, capfd: pytest.CaptureFixture[str]
) -> None:
    assert verse_generate(fake, "-a", "hushi") == 0
    before = Path("poems.jsonl").read_bytes()
    assert verse_generate(fake, "-a", "xuzhimo") == 2
    assert "3 poems of another plan" in capfd.readouterr().err
    assert Path("poems.jsonl").read_bytes() == before
    assert verse_generate(fake, "-a", "xuzhimo", "--extend") == 0
    assert Path("poems.jsonl").read_bytes().startswith(before)
    assert num_lines(Path("poems.jsonl")) == 6


def test_common_seeds_are_resumed_exactly_and_are_a_plan_of_their_own(
    fake: FakeOpenAI, capfd: pytest.CaptureFixture[str]
) -> None:
    options = ["-a", "hushi,base", "--checkpoints", "all", "--common-seeds"]
    assert verse_generate(fake, *options) == 0
    poems = poems_in("poems.jsonl")
    assert len({poem.seed for poem in poems}) == 3
    assert len({(poem.theme, poem.seed) for poem in poems}) == 3
    path = Path("poems.jsonl")
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:4]))
    assert verse_generate(fake, *options) == 0
    assert verse_generate(fake, *options) == 0
    assert fake.num_calls == 9 + 5
    assert {poem.id for poem in poems_in(path)} == {poem.id for poem in poems}
    before = path.read_bytes()
    assert verse_generate(fake, *options[:-1]) == 2
    assert "poems of another plan" in capfd.readouterr().err
    assert (fake.num_calls, path.read_bytes()) == (14, before)


@pytest.fixture
def heeds_ctrl_c() -> Iterator[None]:
    """A shell's background jobs ignore Ctrl-C, and what they start inherits that."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
@pytest.mark.usefixtures("heeds_ctrl_c")
def test_stopped_and_started_again_it_asks_for_no_poem_twice(
    fake: FakeOpenAI, how: signal.Signals
) -> None:
    whole = Path("whole.jsonl")
    options = ["-n", "8", "--concurrency", "4"]
    assert verse_generate(fake, *options, "-o", str(whole)) == 0
    fake.asked.clear()
    gate = fake.script.gate = threading.Event()
    fake.script.free_calls = 10
    path = Path("poems.jsonl")
    command = [VERSE, "generate", "--themes", "themes.txt", "--base-url", fake.base_url]
    process = subprocess.Popen([*command, *options], stderr=subprocess.PIPE, text=True)
    try:
        wait_for(lambda: num_lines(path) == 10 and fake.num_calls == 14)
    except AssertionError:
        process.kill()
        raise
    process.send_signal(how)
    assert process.wait(60) == (130 if how == signal.SIGINT else -signal.SIGKILL)
    assert process.stderr is not None
    said = process.stderr.read()
    process.stderr.close()
    assert ("10 of 48 poems are in poems.jsonl; run the same command again" in said) == (
        how == signal.SIGINT
    )
    assert num_lines(path) == 10
    on_disk = {poem.seed for poem in poems_in(path)}
    fake.script.gate = None
    gate.set()
    fake.asked.clear()
    assert verse_generate(fake, *options) == 0
    assert len(fake.asked) == 48 - 10
    assert not on_disk & {body["seed"] for body in fake.asked}
    assert texts(poems_in(path)) == texts(poems_in(whole))
    assert len(poems_in(path)) == len(poems_in(whole)) == 48


def test_a_line_cut_off_by_a_kill_is_kept_aside_and_its_poem_asked_again(
    fake: FakeOpenAI, capfd: pytest.CaptureFixture[str]
) -> None:
    assert verse_generate(fake) == 0
    path = Path("poems.jsonl")
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    assert verse_generate(fake) == 0
    assert fake.num_calls == 6 + 1
    assert "poems.jsonl.torn" in capfd.readouterr().err
    assert path.with_name("poems.jsonl.torn").read_bytes() == whole.splitlines()[-1][:-19] + b"\n"
    assert len(poems_in(path)) == 6


def test_a_server_that_goes_away_is_waited_for(capfd: pytest.CaptureFixture[str]) -> None:
    first = FakeOpenAI()
    port = first.port
    with first:
        first.script.gate, first.script.free_calls = threading.Event(), 5
        run = threading.Thread(
            target=lambda: codes.append(verse_generate(first.base_url, "-n", "4"))
        )
        codes: list[int] = []
        run.start()
        wait_for(lambda: num_lines(Path("poems.jsonl")) == 5)
    with FakeOpenAI(port) as second:
        run.join(60)
        assert codes == [0]
        assert second.num_calls == 24 - 5
    said = capfd.readouterr().err
    assert said.count(f"No server answers at http://127.0.0.1:{port}/v1. Waiting up to") == 1
    assert said.count("The server answers again.") == 1
    assert len({poem.seed for poem in poems_in("poems.jsonl")}) == 24


@pytest.mark.parametrize(
    ("trouble", "repeated"),
    [
        (Failure(429, retry_after="1"), 1),
        (Failure(503, retry_after="1"), 1),
        (Failure(500), 1),
        (Raw(b"<html>sorry</html>", "text/html"), 1),
        (Raw(b"{}"), 1),
        ("close", 1),
    ],
)
def test_what_time_mends_costs_a_call_and_no_poem(
    fake: FakeOpenAI, trouble: Trouble, repeated: int
) -> None:
    fake.fail(trouble)
    assert verse_generate(fake, "-a", "hushi") == 0
    assert fake.num_calls == 3 + repeated
    assert len(poems_in("poems.jsonl")) == 3


def test_a_long_wait_is_shown_and_one_beyond_the_limit_ends_the_run(
    fake: FakeOpenAI, capfd: pytest.CaptureFixture[str]
) -> None:
    fake.fail(Reply("河水"), Failure(429, "slow down", retry_after="900"))
    options = ["-a", "hushi", "--wait", "60", "--concurrency", "1"]
    assert verse_generate(fake, *options) == 2
    said = capfd.readouterr().err.strip()
    assert "answered 429: slow down. It asks to wait 900 s; --wait allows 60 s." in said
    assert said.endswith("1 of 3 poems is in poems.jsonl; run the same command again to continue.")
    assert verse_generate(fake, *options) == 0
    assert fake.num_calls == 2 + 2


def test_a_poem_the_server_will_not_write_is_told_and_the_others_are_written(
    fake: FakeOpenAI, capfd: pytest.CaptureFixture[str]
) -> None:
    fake.fail(Failure(400, "too long"))
    assert verse_generate(fake, "-a", "hushi") == 2
    said = capfd.readouterr().err
    assert "No poem on '" in said
    assert "1 poem could not be written. 2 of 3 poems are in poems.jsonl" in said
    assert verse_generate(fake, "-a", "hushi") == 0


def test_a_server_that_refuses_everything_is_not_asked_for_everything(fake: FakeOpenAI) -> None:
    fake.fail(*[Failure(400, "unknown field top_k")] * 99)
    assert verse_generate(fake, "-n", "9", "--concurrency", "1") == 2
    assert fake.num_calls == 5


@pytest.mark.parametrize(
    ("options", "script", "said"),
    [
        (["--api-key", "sk-wrong"], Script(key="sk-right"), "does not accept the API key"),
        ([], Script(key="sk-right"), "wants an API key; set OPENAI_API_KEY or give --api-key."),
        (["-a", "libai"], Script(), "has no adapter 'libai'; it has hushi, xuzhimo, and base"),
        (["--checkpoints", "7", "-a", "hushi"], Script(), "hushi has published, 80, 160"),
        (["--checkpoints", "some"], Script(), "'some' names no checkpoints"),
        (["--checkpoints", "all", "-e", "5"], Script(), "not both"),
        (["-m", "Qwen2.5-32B"], Script(), "base is verse-tiny, not Qwen2.5-32B"),
        (["--themes", "empty.txt"], Script(), "empty.txt is empty"),
        (["--themes", "gbk.txt"], Script(), "gbk.txt:1 is not UTF-8"),
        (["--themes", "nowhere.txt"], Script(), "nowhere.txt cannot be read"),
        (["-p", "  "], Script(), "Name themes"),
        (["--variants", "themes.txt"], Script(), "has no {theme}"),
        (["--training", "empty.txt"], Script(), "holds no poems"),
        (["--accepted", "nowhere.jsonl"], Script(), "nowhere.jsonl cannot be read"),
        (["-o", "nowhere/poems.jsonl"], Script(), "cannot be written"),
    ],
)
def test_each_mistake_is_one_sentence_and_leaves_nothing(
    options: list[str], script: Script, said: str, fake: FakeOpenAI,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    Path("empty.txt").write_text("\n", "utf-8")
    Path("gbk.txt").write_bytes("风雨".encode("gbk"))
    fake.script = script
    assert verse_generate(fake, *options) == 2
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 1
    assert said in lines[0]
    assert fake.num_calls == 0
    assert not Path("poems.jsonl").exists()


def test_no_server_at_all_is_told(capfd: pytest.CaptureFixture[str]) -> None:
    assert verse_generate("http://127.0.0.1:9/v1", "--wait", "0") == 2
    assert capfd.readouterr().err == "No server answers at http://127.0.0.1:9/v1.\n"


def test_no_more_requests_run_at_once_than_allowed(fake: FakeOpenAI) -> None:
    fake.script.seconds = 0.05
    assert verse_generate(fake, "-n", "4", "--concurrency", "3") == 0
    assert fake.most_at_once == 3


def test_copies_duplicates_and_chatter_are_marked_and_nothing_is_dropped(
    fake: FakeOpenAI, capfd: pytest.CaptureFixture[str]
) -> None:
    line = "河水流过我的窗前带走一页没有写完的信"
    jsonl.append(Path("train.jsonl"), Poem(theme="河", text=line))
    fake.fail(
        Reply(f"好的，以下是一首诗：\n\n{line}\n\n希望您喜欢！"),
        Reply("门轴响了一声，院里没有别的人\n井台上结着霜", "length"),
        Reply("门轴响了一声，院里没有别的人。\n井台上结着霜。"),
        Reply("门轴响了一声\n院里没有别的人井台上结着霜"),
    )
    options = [
        "-p",
        "风 雨 雪 霜",
        "-a",
        "hushi",
        "--training",
        "train.jsonl",
        "--concurrency",
        "1",
        "--json",
    ]
    assert verse_generate(fake, *options, "-o", "poems.json") == 0
    copy, cut, whole, again = poems_in("poems.jsonl")
    assert (copy.text, copy.blocked, copy.copied_from) == (line, "copy", "《河》")
    assert copy.raw == f"好的，以下是一首诗：\n\n{line}\n\n希望您喜欢！"
    assert (cut.finish_reason, cut.blocked) == ("length", None)
    assert (whole.duplicate_of, whole.blocked) == (cut.id, None)
    assert (again.duplicate_of, again.blocked) == (whole.id, "duplicate")
    summary = json.loads(capfd.readouterr().out)
    (group,) = summary["groups"]
    counts = [group[name] for name in ("copies", "duplicates", "cut_off", "blocked")]
    assert counts == [1, 2, 1, 2]
    assert summary["copies"][0]["source"] == "《河》"
    assert summary["run"]["written"] == 4
    assert summary["run"]["near"] == 0.8
    kept = json.loads(Path("poems.json").read_text("utf-8"))
    assert [poem["body"] for poem in kept] == [cut.text, whole.text]
    assert verse_generate(fake, *options, "-o", "poems.json", "--with-blocked") == 0
    kept = json.loads(Path("poems.json").read_text("utf-8"))
    assert len(kept) == 4


def test_a_poem_that_ended_before_its_tokens_did_is_whole(fake: FakeOpenAI) -> None:
    fake.fail(Reply("河水流\nuser\n松", "length"))
    assert verse_generate(fake, "-a", "hushi", "-p", "河") == 0
    (poem,) = poems_in("poems.jsonl")
    assert (poem.text, poem.finish_reason) == ("河水流", "stop")


def test_changed_weights_under_the_same_name_are_told(
    fake: FakeOpenAI, capfd: pytest.CaptureFixture[str]
) -> None:
    assert verse_generate(fake, "-a", "hushi") == 0
    path = Path("poems.jsonl")
    path.write_text(path.read_text("utf-8").replace("fp-hushi", "fp-older"), "utf-8")
    assert verse_generate(fake, "-a", "hushi", "-n", "2") == 0
    assert capfd.readouterr().err.count("weights of hushi have changed") == 1


def test_a_dry_run_shows_the_plan_and_writes_nothing(
    fake: FakeOpenAI, capfd: pytest.CaptureFixture[str]
) -> None:
    assert verse_generate(fake, "-a", "hushi") == 0
    calls = fake.num_calls
    assert verse_generate(fake, "-a", "hushi,base", "-n", "2", "--dry-run") == 0
    said = capfd.readouterr().out
    assert "hushi: 6 poems\nbase: 6 poems\n" in said
    assert "2 models x 3 themes x 1 variant x 2 samples = 12 poems; 3 of them are in" in said
    assert "Poems that are 80% similar count as duplicates, 8 characters in a row from" in said
    assert fake.num_calls == calls
    assert num_lines(Path("poems.jsonl")) == 3


def test_a_foreign_server_is_asked_by_the_name_of_its_model(fake: FakeOpenAI) -> None:
    fake.script.models = [{"id": "gpt", "object": "model", "created": 0, "owned_by": "x"}]
    fake.script.strict_models = False
    assert verse_generate(fake, "-m", "gpt") == 0
    assert {body["model"] for body in fake.asked} == {"gpt"}
    assert {poem.adapter for poem in poems_in("poems.jsonl")} == {"gpt"}


def test_a_file_is_converted_and_reported_without_a_server(
    fake: FakeOpenAI, capfd: pytest.CaptureFixture[str]
) -> None:
    assert verse_generate(fake, "-a", "hushi") == 0
    fake.stop()
    capfd.readouterr()
    for name in ("book.md", "book.txt", "book.json"):
        assert cli.main(["generate", "convert", "poems.jsonl", "-o", name]) == 0
        assert "风" in Path(name).read_text("utf-8")
    assert cli.main(["generate", "convert", "poems.jsonl", "-o", "book.pdf"]) == 2
    assert cli.main(["generate", "convert", "nowhere.jsonl", "-o", "book.md"]) == 2
    capfd.readouterr()
    assert cli.main(["generate", "report", "poems.jsonl"]) == 0
    assert "hushi" in capfd.readouterr().out
    assert cli.main(["generate", "report", "poems.jsonl", "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["groups"][0]["num_poems"] == 3


def test_a_thought_without_a_poem_fails_and_is_asked_for_again(
    fake: FakeOpenAI, capfd: pytest.CaptureFixture[str]
) -> None:
    fake.fail(Reply("<think>\n河水流过", "length"), Reply("", "length"))
    assert verse_generate(fake, "-a", "hushi", "-o", "poems.jsonl", "--concurrency", "1") == 2
    said = capfd.readouterr().err
    assert said.count("was still thinking when its tokens ran out") == 2
    assert "2 poems could not be written." in said
    assert len(poems_in("poems.jsonl")) == 1
    assert verse_generate(fake, "-a", "hushi", "-o", "poems.jsonl") == 0
    assert len(poems_in("poems.jsonl")) == 3


def test_five_thoughts_in_a_row_end_the_run(fake: FakeOpenAI) -> None:
    fake.fail(*[Reply("<think>\n河水流过", "length")] * 99)
    assert verse_generate(fake, "--concurrency", "1", "-o", "poems.jsonl") == 2
    assert fake.num_calls == 5


def test_a_poem_with_a_tag_of_a_thought_in_it_is_marked(fake: FakeOpenAI) -> None:
    fake.script.write = lambda _: "河水流过\n<think>这一句好吗"
    assert verse_generate(fake, "-a", "hushi", "-o", "poems.jsonl") == 0
    assert {poem.blocked for poem in poems_in("poems.jsonl")} == {"thought"}
