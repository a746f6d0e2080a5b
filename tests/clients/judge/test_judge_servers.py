"""`verse judge` with several servers for one judge: they share its questions, none is lost."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients.fake_openai import FakeOpenAI, model
from tests.clients.judge.conftest import CACHE, ranked
from tests.clients.judge.simulated import noisy, qualities
from verse import cli
from verse.records import Candidate
from verse_clients.judge.judgments import read_judgments


@pytest.fixture
def other(written: list[Candidate]) -> Iterator[FakeOpenAI]:
    with FakeOpenAI() as server:
        server.script.write = noisy(qualities(written))
        yield server


def judge(*servers: FakeOpenAI | str, options: tuple[str, ...] = ("--compare", "none")) -> int:
    urls = [each if isinstance(each, str) else each.base_url for each in servers]
    return cli.main(["judge", *options, *(word for url in urls for word in ("--base-url", url))])


def test_two_servers_share_the_questions_and_each_answer_tells_whose_it_is(
    fake: FakeOpenAI, other: FakeOpenAI
) -> None:
    for server in (fake, other):
        server.script.seconds = 0.02
    assert judge(fake, other) == 0
    answers = read_judgments(CACHE)
    assert len(answers) == len({answer.candidates for answer in answers}) == 12
    written = Counter(answer.server for answer in answers)
    assert written == {fake.base_url: fake.num_calls, other.base_url: other.num_calls}
    assert min(written.values()) > 2
    (summary,) = ranked().judges
    assert summary.server == f"{fake.base_url}, {other.base_url}"
    asked = fake.num_calls + other.num_calls
    assert judge(other, fake) == 0
    assert fake.num_calls + other.num_calls == asked


def test_a_server_that_is_down_is_named_and_the_other_answers(
    fake: FakeOpenAI, other: FakeOpenAI, capfd: pytest.CaptureFixture[str]
) -> None:
    other.stop()
    assert judge(other, fake) == 0
    assert fake.num_calls == 12
    assert f"No server answers at {other.base_url}. Others do its share" in capfd.readouterr().err


def test_servers_with_different_models_under_one_name_are_refused(
    fake: FakeOpenAI, other: FakeOpenAI, capfd: pytest.CaptureFixture[str]
) -> None:
    for server, digest in ((fake, "a" * 64), (other, "b" * 64)):
        server.script.models[0] = model("verse-tiny", parent=None) | {"digest": digest}
    assert judge(fake, other) == 2
    assert f"{other.base_url} has another 'base' than {fake.base_url}" in capfd.readouterr().err
    assert fake.num_calls == other.num_calls == 0
    assert not Path("ranked.json").exists()


@pytest.mark.parametrize("context", [60, 700])
def test_the_one_server_whose_context_is_too_short_is_named_before_the_first_question(
    context: int, fake: FakeOpenAI, other: FakeOpenAI, capfd: pytest.CaptureFixture[str]
) -> None:
    fake.script.context, other.script.context = 100_000, context
    assert judge(fake, other) == 2
    said = capfd.readouterr().err
    assert f"The judge base at {other.base_url} has a context of {context} tokens, and a " in said
    assert fake.num_calls == other.num_calls == 0


def test_several_judges_have_one_server_each(
    fake: FakeOpenAI, other: FakeOpenAI, capfd: pytest.CaptureFixture[str]
) -> None:
    options = ("--judge", "base", "--judge", "hushi")
    assert judge(fake, other, "http://127.0.0.1:1/v1", options=options) == 2
    assert "2 judges but 3 --base-url" in capfd.readouterr().err
    assert judge(fake, fake) == 2
    assert "is given twice; name each server once." in capfd.readouterr().err
