"""No theme, name or answer takes the terminal over, whichever command prints it.

Each test here is one place where a command prints what came from elsewhere.
"""

import json
import unicodedata
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.clients.fake_openai import Failure, FakeOpenAI, model
from tests.core.test_terminal import HOSTILE
from tests.trainer.test_preflight import FORECAST
from verse import cli, jsonl
from verse.records import Candidate, Decision, PairDecision, Poem
from verse.terminal import console
from verse_server.banner import show_ready
from verse_server.config import EngineConfig, ServerConfig
from verse_server.engine.types import BaseInfo, ModelInfo, SamplingParams
from verse_trainer.config import TrainConfig
from verse_trainer.events import Sampled
from verse_trainer.progress import ProgressView

NAME = "a\x1b[2J\x9b31m\u202e[x](y)|z"
"""Can be the name of a folder."""
TIME = datetime(2026, 11, 29, tzinfo=UTC)

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


@pytest.fixture
def fake() -> Iterator[FakeOpenAI]:
    with FakeOpenAI() as server:
        yield server


def candidates(count: int = 2) -> list[Candidate]:
    return [
        Candidate(
            theme=HOSTILE,
            text=f"{HOSTILE}第{number}行\n"
            + "".join(map(chr, range(0x4E00 + 99 * number, 0x4E20 + 99 * number))),
            adapter=NAME,
            sample=number,
            copied_from=f"《{HOSTILE}》",
            copied_run=HOSTILE,
            finish_reason="stop",
        )
        for number in range(count)
    ]


def printed(capsys: Capture, *, least: int = 1) -> str:
    """All that was printed; harmless, and the hostile text is in it as codes."""
    out, err = capsys.readouterr()
    text = out + err
    for char in text:
        assert char in "\n\t" or unicodedata.category(char) != "Cc", ascii(text)
        assert unicodedata.bidirectional(char) not in ("RLO", "LRI"), ascii(text)
    assert text.count("\\u") >= least, text
    return text


def verse(*arguments: str | Path) -> int:
    return cli.main([str(argument) for argument in arguments])


def test_a_mistake_on_the_command_line(capsys: Capture) -> None:
    assert verse("generate", f"--{NAME}") == 2
    assert verse("data", f"--{NAME}") == 2
    assert verse(NAME) == 2
    assert verse("train", "-c", NAME) == 2
    printed(capsys, least=4)


def test_the_banner_of_the_server(capsys: Capture) -> None:
    base = BaseInfo(
        id=NAME,
        context_length=10,
        vocab_size=9,
        dtype="float32",
        bytes=1,
        created=0,
        sampling=SamplingParams(),
    )
    models = [ModelInfo(id=NAME, created=0, parent=None, root=NAME)]
    config = ServerConfig(engine=EngineConfig(model=NAME, adapters=Path(NAME)))
    show_ready(console(width=300), config, 8000, base, models, [HOSTILE])
    printed(capsys, least=3)


def test_a_run_of_the_trainer(capsys: Capture) -> None:
    with ProgressView(TrainConfig(), console(width=300)) as view:
        view(FORECAST)
        view(Sampled(step=1, theme=HOSTILE, text=HOSTILE, copy_run=HOSTILE, copy_source=HOSTILE))
    printed(capsys, least=3)


def test_the_list_of_adapters_and_one_of_them(capsys: Capture) -> None:
    for name in (NAME, "broken" + NAME):
        Path("adapters", name).mkdir(parents=True)
    Path("adapters", NAME, "adapter_config.json").write_text("{", "utf-8")
    assert verse("adapters", "list", "--adapters", "adapters") == 0
    assert verse("adapters", "list", "--adapters", "adapters", "--json") == 0
    assert verse("adapters", "list", "--adapters", NAME) in (0, 2)
    assert verse("adapters", "show", NAME, "--adapters", "adapters") == 2
    printed(capsys, least=4)


def test_poems_of_several_adapters_side_by_side(fake: FakeOpenAI, capsys: Capture) -> None:
    fake.script.models.append(model(NAME, 10))
    fake.script.write = lambda _: HOSTILE
    asked = ["--themes", HOSTILE, "--base-url", fake.base_url]
    assert verse("adapters", "compare", NAME, "base", *asked) == 0
    assert verse("adapters", "compare", NAME, "base", *asked, "-o", f"{NAME}.md") == 0
    fake.fail(Failure(400, HOSTILE))
    assert verse("adapters", "compare", NAME, *asked) == 2
    printed(capsys, least=4)


def test_data_import_check_and_split(capsys: Capture) -> None:
    poems = [Poem(theme=HOSTILE, text=f"{HOSTILE}一行{n}", source=HOSTILE) for n in range(8)]
    jsonl.append(Path("poems.jsonl"), *poems, poems[0])
    Path(f"{NAME}.jsonl").write_text('{"theme": "a"}\n', "utf-8")
    verse("data", "import", f"{NAME}.jsonl", "-o", "new.jsonl")
    verse("data", "check", "poems.jsonl", "--all")
    verse("data", "check", "poems.jsonl", "--json")
    verse("data", "split", "poems.jsonl", "-o", NAME)
    printed(capsys, least=4)


def test_generate_its_plan_its_report_and_what_a_server_says(
    fake: FakeOpenAI, capsys: Capture
) -> None:
    fake.script.models.append(model(NAME, 10))
    themes = ["-p", "风", "--base-url", fake.base_url]
    assert verse("generate", *themes, "--dry-run", "-o", f"{NAME}.jsonl") == 0
    assert verse("generate", *themes, "-a", "nobody") == 2
    fake.fail(Failure(400, HOSTILE))
    assert verse("generate", *themes, "-a", "hushi") == 2
    jsonl.append(Path("written.jsonl"), *candidates())
    assert verse("generate", "report", "written.jsonl") == 0
    assert verse("generate", "report", "written.jsonl", "--json") == 0
    text = printed(capsys, least=6)
    report = json.JSONDecoder().raw_decode(text, text.index("{\n"))[0]
    assert report["groups"][0]["model"] == NAME


def test_judge_its_ranking_and_what_a_server_says(fake: FakeOpenAI, capsys: Capture) -> None:
    jsonl.append(Path("poems.jsonl"), *candidates(6))
    fake.fail(*[Failure(400, HOSTILE)] * 12)
    assert verse("judge", "--base-url", fake.base_url, "--compare", "none") == 2
    fake.script.write = lambda _: json.dumps(
        dict.fromkeys(("theme_adherence", "poetic_quality", "fluency", "emotional_resonance"), 3)
    )
    assert verse("judge", "--base-url", fake.base_url, "--compare", "none", "--ask-again") == 0
    assert verse("judge", "--base-url", fake.base_url, "--judge", NAME, "--dry-run") == 0
    assert verse("judge", "report", "-i", "ranked.json", "-d", NAME) == 2
    printed(capsys, least=4)


def decisions(path: Path) -> None:
    one, other = candidates(2)
    accept = Decision(action="accept", candidate=one, blind=True, time=TIME)
    reject = Decision(action="reject", candidate=other, blind=True, time=TIME)
    pair = PairDecision(
        left=one,
        right=other.__class__(theme=HOSTILE, text="另一首", adapter="b"),
        verdict="left",
        blind=True,
        time=TIME,
    )
    jsonl.append(path, accept, reject, pair)


def test_curate_export_and_its_mistakes(capsys: Capture) -> None:
    decisions(Path("decisions.jsonl"))
    assert verse("curate", "export", "-i", "decisions.jsonl", "-o", NAME) == 0
    assert verse("curate", "export", "-i", NAME + "x") == 2
    assert verse("curate", "export", "-i", "decisions.jsonl", "--what", NAME) == 2
    printed(capsys, least=3)


def test_refine_filter_convert_and_status(capsys: Capture) -> None:
    jsonl.append(Path("poems.jsonl"), Poem(theme="河", text="河水流过我的窗前，没有人看见它"))
    jsonl.append(Path("written.jsonl"), *candidates(3))
    decisions(Path("decisions.jsonl"))
    poets = ["--poems", "poems.jsonl", "--without-split"]
    assert verse("refine", "filter", "-i", "written.jsonl", *poets) == 0
    assert verse("refine", "convert", "-i", "decisions.jsonl", "-o", "more.jsonl", *poets) == 0
    assert verse("refine", "status", "--round", NAME) == 2
    printed(capsys, least=2)


def test_report_and_its_tables_in_markdown(capsys: Capture) -> None:
    decisions(Path("decisions.jsonl"))
    assert verse("report", "decisions.jsonl") == 0
    text = printed(capsys, least=3)
    rows = [line for line in text.splitlines() if line.startswith("| a\\u001b")]
    by_checkpoint = [row for row in rows if "z |" in row]
    assert by_checkpoint
    for row in by_checkpoint:
        assert "\\[x\\](y)\\|z" in row
        assert "[x](" not in row
