"""`verse generate -p -m -a -o -e`, as the original project's script reads them."""

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.clients.fake_openai import FakeOpenAI
from tests.clients.generate.conftest import poems_in, verse_generate
from verse import cli
from verse_clients import local_server, openai_client


@pytest.fixture
def trained_for_long(fake: FakeOpenAI) -> FakeOpenAI:
    """hushi has the checkpoints 100, 200 ... 1200."""
    fake.script.models[1]["checkpoints"] = [
        {"id": f"hushi@{step}", "step": step, "bytes": 1} for step in range(100, 1300, 100)
    ]
    return fake


_BASE = ("-m", "models/verse-tiny")


@pytest.mark.parametrize(
    ("how", "steps"),
    [
        (["-a", "hushi", "-e", "300"], set(range(300, 1300, 100))),
        (["-a", "adapters/hushi/", "--start-epoch", "1100"], {1100, 1200}),
        (["--adapter-dir", "hushi"], {1000, 1100, 1200}),
        (["-a", "old/hushi/0000600_adapters.safetensors"], {600}),
        (["--adapter-path", "hushi/0000700_adapters.safetensors", "-e", "300"], {700}),
        (["--adapters", "hushi"], {None}),
        (["--adapters", "hushi", "-e", "1200"], {1200}),
    ],
)
def test_the_originals_flags_mean_what_they_meant(
    trained_for_long: FakeOpenAI, how: list[str], steps: set[int | None]
) -> None:
    assert verse_generate(trained_for_long, "-p", "风", *_BASE, *how, "-o", "poems.jsonl") == 0
    poems = poems_in("poems.jsonl")
    assert {poem.checkpoint for poem in poems} == steps
    assert len(poems) == len(steps)


@pytest.mark.parametrize("is_folder", [True, False])
def test_where_no_server_runs_the_originals_command_loads_the_base_itself(
    is_folder: bool,
    fake: FakeOpenAI,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    place: Path,
) -> None:
    monkeypatch.setattr(openai_client, "DEFAULT_BASE_URL", "http://127.0.0.1:1/v1")
    starts: list[tuple[str, ...]] = []

    @contextmanager
    def start(*flags: str) -> Generator[str]:
        starts.append(flags)
        yield fake.base_url

    monkeypatch.setattr(local_server, "local_server", start)
    folder = place / "old" / "hushi"
    folder.mkdir(parents=True)
    if is_folder:
        (folder / "adapter_config.json").write_text("{}")
    asked = ["-p", "风", "雨", *_BASE, "-a", "old/hushi" if is_folder else "hushi"]
    assert cli.main(["generate", *asked, "-o", "poems.jsonl"]) == 0
    adapters = ("--adapters", str(place / "old")) if is_folder else ()
    assert starts == [(*adapters, "--model", "models/verse-tiny")]
    assert len(poems_in("poems.jsonl")) == 2
    assert capfd.readouterr().err.startswith(
        "No server runs on this machine: loading models/verse-tiny.\n"
    )


def test_an_adapter_without_late_checkpoints_writes_with_its_published_weights_and_says_so(
    fake: FakeOpenAI, capfd: pytest.CaptureFixture[str]
) -> None:
    assert verse_generate(fake, "-p", "风", "-a", "hushi") == 0
    assert {poem.model for poem in poems_in("poems.jsonl")} == {"hushi"}
    told = " ".join(capfd.readouterr().err.split())
    assert "No checkpoint from step 1000 on: the published weights of hushi write;" in told


@pytest.mark.parametrize(
    "words", [["风", "雨", "雪"], ["风 雨 雪"], ["风\n雨 雪\n"], ["风", "雨 雪"]]
)
def test_themes_are_several_words_or_one_text(fake: FakeOpenAI, words: list[str]) -> None:
    assert verse_generate(fake, "-p", *words, *_BASE, "--adapters", "hushi") == 0
    assert {poem.theme for poem in poems_in("poems.jsonl")} == {"风", "雨", "雪"}


def test_the_name_of_a_command_can_be_a_theme(fake: FakeOpenAI) -> None:
    assert verse_generate(fake, "--adapters", "hushi", "-p", "报告", "report", "convert") == 0
    assert {poem.theme for poem in poems_in("poems.jsonl")} == {"报告", "report", "convert"}


CHAT = (
    "<|im_start|>system 写一首现代诗<|im_end|> <|im_start|>user 河<|im_end|> <|im_start|>assistant"
)


def test_a_whole_chat_prompt_is_one_prompt(fake: FakeOpenAI) -> None:
    assert verse_generate(fake, "-p", CHAT, "雨", "--adapters", "hushi") == 0
    rain, river = sorted(poems_in("poems.jsonl"), key=lambda poem: poem.variant or "")
    assert (rain.theme, rain.variant) == ("雨", None)
    assert (river.theme, river.variant) == ("河", CHAT.replace("河", "{theme}"))
    sent = [body["messages"] for body in fake.asked]
    assert [
        {"role": "system", "content": "写一首现代诗"},
        {"role": "user", "content": "河"},
    ] in sent
    assert verse_generate(fake, "-p", CHAT, "雨", "--adapters", "hushi") == 0
    assert fake.num_calls == 2


def test_a_file_of_variants_may_hold_whole_prompts(fake: FakeOpenAI) -> None:
    Path("variants.txt").write_text(CHAT.replace("河", "{theme}\\n") + "\n", "utf-8")
    options = ["-p", "山", "--variants", "variants.txt", "--adapters", "hushi"]
    assert verse_generate(fake, *options) == 0
    (body,) = fake.asked
    assert body["messages"][1] == {"role": "user", "content": "山\n"}


def test_a_chat_prompt_that_asks_for_nothing_is_one_sentence(
    fake: FakeOpenAI, capfd: pytest.CaptureFixture[str]
) -> None:
    assert verse_generate(fake, "-p", "<|im_start|>system 写诗<|im_end|>") == 2
    assert capfd.readouterr().err.startswith("This prompt has no user turn that says a theme:")
