"""Answers count for the model that gave them, and for no other of its name."""

import json
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from tests.clients.fake_openai import Failure, FakeOpenAI, Script, model
from tests.clients.judge.conftest import CACHE, num_lines, ranked, verse_judge
from tests.clients.judge.simulated import first, noisy, poems, qualities
from verse.records import Judgment
from verse_clients.answers import ServedModel
from verse_clients.errors import ServerDownError, ServerError, UnknownModelError
from verse_clients.judge.judgments import read_judgments
from verse_clients.model_identity import identity_of

OTHER = [model("qwen3-4b", parent=None) | {"root": "qwen3-4b"}]


class Listing:
    """A server that lists models, and knows them by name or not."""

    def __init__(self, *models: ServedModel, error: ServerError | None = None) -> None:
        self._models, self._error = models, error

    async def model(self, name: str) -> ServedModel:
        if self._error is not None:
            raise self._error
        raise UnknownModelError(f"There is no {name}.")

    async def models(self) -> list[ServedModel]:
        return list(self._models)


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("models", "identity"),
    [
        ([ServedModel(id="gpt-4.1")], ""),
        ([ServedModel(id="gpt-4.1"), ServedModel(id="gpt-5")], ""),
        ([ServedModel(id="gpt-4.1", root="/models/qwen")], "root=/models/qwen"),
        ([ServedModel(id="/models/llama.gguf")], "id=/models/llama.gguf"),
        ([ServedModel(id="gpt-4.1", root="base", digest="d1")], "root=base digest=d1"),
        ([ServedModel(id="a"), ServedModel(id="b")], ""),
        ([], ""),
    ],
)
async def test_what_the_list_says_beyond_the_name_is_the_identity(
    models: list[ServedModel], identity: str
) -> None:
    assert await identity_of(Listing(*models), "gpt-4.1") == identity


class Adapters(Listing):
    """A server that shows a blend as its first adapter, as ours does."""

    async def model(self, name: str) -> ServedModel:
        first = name.split("+")[0].split(":")[0]
        return next(model for model in self._models if model.id == first)


@pytest.mark.anyio
async def test_every_adapter_of_a_blend_belongs_to_its_identity() -> None:
    one, other = ServedModel(id="a", root="base", digest="d1"), ServedModel(id="b", digest="d2")
    said = await identity_of(Adapters(one, other), "a:0.7+b:0.3")
    assert said == "id=a root=base digest=d1 + id=b digest=d2"


@pytest.mark.anyio
async def test_a_server_that_is_away_says_nothing_rather_than_something_else() -> None:
    with pytest.raises(ServerDownError):
        await identity_of(Listing(error=ServerDownError("down")), "base")
    assert await identity_of(Listing(error=ServerError("no such page", status=404)), "base") == ""


def test_another_model_behind_the_same_name_and_address_is_asked_anew(
    fake: FakeOpenAI, capfd: pytest.CaptureFixture[str]
) -> None:
    assert verse_judge(fake) == 0
    calls = fake.num_calls
    capfd.readouterr()
    fake.script.models, fake.script.write = OTHER, first
    assert verse_judge(fake) == 0
    assert fake.num_calls > calls
    assert ranked().poems[0].score == 3.0
    said = capfd.readouterr().err
    assert f"{calls} answers in {CACHE} came from another model named base" in said
    assert {each.identity for each in read_judgments(CACHE)} == {
        "id=verse-tiny root=verse-tiny", "id=qwen3-4b root=qwen3-4b",
    }  # fmt: skip
    both = fake.num_calls
    assert verse_judge(fake) == 0
    assert fake.num_calls == both


def test_another_version_of_an_adapter_is_another_judge(fake: FakeOpenAI) -> None:
    assert verse_judge(fake, "--judge", "xuzhimo", "--compare", "none") == 0
    calls = fake.num_calls
    fake.script.models[2]["digest"] = "another"
    assert verse_judge(fake, "--judge", "xuzhimo", "--compare", "none") == 0
    assert fake.num_calls == 2 * calls


def test_a_ranking_says_when_a_judges_fingerprint_changed_on_the_way(fake: FakeOpenAI) -> None:
    assert verse_judge(fake, "--compare", "none") == 0
    assert not ranked().notes
    lines = CACHE.read_text("utf-8").splitlines(keepends=True)
    lines[0] = lines[0].replace('"fp-base"', '"fp-elsewhere"')
    CACHE.write_text("".join(lines), "utf-8")
    assert verse_judge(fake, "--compare", "none") == 0
    assert ranked().notes == (
        "The answers of base come from 2 versions of its model, by system_fingerprint.",
    )


def old_cache() -> list[Judgment]:
    """The answers as they were written before they said whose they are."""
    lines = [json.loads(line) for line in CACHE.read_text("utf-8").splitlines()]
    for line in lines:
        del line["identity"], line["fingerprint"]
    CACHE.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    return read_judgments(CACHE)


@pytest.fixture
def foreign() -> Iterator[FakeOpenAI]:
    """A server that says of its model no more than the name."""
    with FakeOpenAI(script=Script(write=noisy(qualities(poems(12))))) as server:
        server.script.models = [{"id": "gpt-4.1", "object": "model", "checkpoints": []}]
        yield server


def test_a_server_that_says_no_more_than_the_name_keeps_its_answers(foreign: FakeOpenAI) -> None:
    arguments = ["--judge", "gpt-4.1"]
    assert verse_judge(foreign, *arguments) == 0
    calls = foreign.num_calls
    assert {each.identity for each in old_cache()} == {""}
    assert verse_judge(foreign, *arguments) == 0
    assert foreign.num_calls == calls


def test_old_answers_that_do_not_say_whose_they_are_are_read_and_do_not_count(
    fake: FakeOpenAI, capfd: pytest.CaptureFixture[str]
) -> None:
    assert verse_judge(fake, "--compare", "none") == 0
    calls = fake.num_calls
    changed = [msgspec.structs.replace(each, key=f"old{each.key}") for each in old_cache()]
    CACHE.write_bytes(b"".join(msgspec.json.encode(each) + b"\n" for each in changed))
    capfd.readouterr()
    assert verse_judge(fake, "--compare", "none") == 0
    assert (fake.num_calls, num_lines(CACHE)) == (2 * calls, 2 * calls)
    assert "or do not record which model; they are kept" in capfd.readouterr().err


def test_a_known_ranking_needs_no_server(fake: FakeOpenAI) -> None:
    assert verse_judge(fake) == 0
    made = Path("ranked.json").read_bytes()
    fake.stop()
    assert verse_judge(fake, "--wait", "0") == 0
    assert Path("ranked.json").read_bytes() == made


def test_a_dry_run_counts_what_this_model_was_not_asked(
    fake: FakeOpenAI, capfd: pytest.CaptureFixture[str]
) -> None:
    assert verse_judge(fake) == 0
    assert verse_judge(fake, "--dry-run") == 0
    assert ": 0 rubric calls" in capfd.readouterr().out
    fake.script.models = OTHER
    assert verse_judge(fake, "--dry-run") == 0
    assert ": 12 rubric calls" in capfd.readouterr().out
    fake.stop()
    assert verse_judge(fake, "--dry-run") == 0
    assert ": 0 rubric calls" in capfd.readouterr().out


def test_a_model_that_turns_out_to_be_another_one_ends_the_run(
    fake: FakeOpenAI, capfd: pytest.CaptureFixture[str]
) -> None:
    assert verse_judge(fake, "--compare", "none") == 0
    calls = fake.num_calls
    fake.script.models, fake.script.list_failures = OTHER, [Failure(503, "starting")]
    assert verse_judge(fake) == 2
    told = capfd.readouterr().err
    assert "A different model now answers as base" in told
    assert "run the same command again" in told
    assert fake.num_calls == num_lines(CACHE) == calls
    assert verse_judge(fake) == 0
