"""The whole round on a real model: train, serve, write, judge, decide, convert, train, compare.

    VERSE_QWEN=FOLDER uv run pytest -m qwen -s tests/e2e/test_qwen_round.py

`-s` shows the figures and six poems. VERSE_QWEN_EPOCHS (10), VERSE_QWEN_ROWS (24) and
VERSE_QWEN_THEMES (15) shorten it: with 1, 8 and 2 it takes minutes and tells whether all goes.
"""

import json
import os
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from benchmarks.parties import model_folder
from tests.e2e.conftest import ROOT, Served, start
from tests.e2e.test_round import decide
from tests.e2e.test_round import verse as verse_within
from verse.terminal import show
from verse_clients.decisions.sources import read_items
from verse_clients.judge.metrics import consistency
from verse_clients.judge.ranked import Ranked, read_ranked
from verse_clients.judge.report import make_report

pytestmark = [pytest.mark.qwen, pytest.mark.slow]

EPOCHS = int(os.environ.get("VERSE_QWEN_EPOCHS", "10"))
NUM_ROWS = int(os.environ.get("VERSE_QWEN_ROWS", "24"))
THEMES = (
    "河",
    "灯",
    "母亲",
    "雪",
    "旧车站",
    "雨后",
    "窗",
    "信",
    "盐",
    "梯子",
    "影子",
    "桥",
    "夏天",
    "煤",
    "回声",
)[: int(os.environ.get("VERSE_QWEN_THEMES", "15"))]
NUM_POEMS = 4 * len(THEMES)
"""By two adapters and two checkpoints of each."""
MAX_TOKENS = "90"


@dataclass
class Workshop:
    """A poet's folder with two adapters, and a server of it."""

    folder: Path
    served: Served
    figures: dict[str, Any] = field(default_factory=dict[str, Any])

    @contextmanager
    def timed(self, name: str) -> Generator[None]:
        begun = time.perf_counter()
        yield
        self.figures[name] = round(time.perf_counter() - begun, 1)


def verse(folder: Path, *words: str) -> str:
    return verse_within(folder, *words, timeout=3600)


def training(model: str, seed: int = 0) -> list[str]:
    """A short run on a third of the layers."""
    layers = json.loads((model_folder(model) / "config.json").read_text("utf-8"))
    length = ["--epochs", str(EPOCHS), "--batch-size", "4", "--learning-rate", "2e-4"]
    length += ["--save-every", str(max(1, EPOCHS * 5 // 2))]
    upper = ["--num-layers", str(layers["num_hidden_layers"] // 3)]
    return ["--model", model, *upper, *length, "--seed", str(seed)]


@pytest.fixture(scope="module")
def workshop(qwen: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workshop]:
    folder = tmp_path_factory.mktemp("qwen") / "poet"
    (folder / "data").mkdir(parents=True)
    poems = (ROOT / "data" / "poems.jsonl").read_text("utf-8").splitlines(keepends=True)
    (folder / "data" / "poems.jsonl").write_text(
        "".join(sorted(poems, key=len)[:NUM_ROWS]), "utf-8"
    )
    (folder / "data" / "themes.txt").write_text("\n".join(THEMES), "utf-8")
    verse(folder, "data", "split")
    seconds: dict[str, float] = {}
    for seed, name in enumerate(("first", "second")):
        begun = time.perf_counter()
        where = ("--data", "data", "--adapter-path", f"adapters/{name}")
        verse(folder, "train", *where, *training(qwen, seed))
        seconds[f"train {name}, s"] = round(time.perf_counter() - begun, 1)
    served = start(folder / "adapters", "--model", qwen)
    yield Workshop(folder, served, dict[str, Any](seconds))
    served.stop()


def test_a_round_on_a_real_model_makes_an_adapter_that_is_compared(
    workshop: Workshop, qwen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    folder, figures = workshop.folder, workshop.figures
    listed = {m.id: m.to_dict() for m in workshop.served.client.models.list()}
    steps: list[int] = [c["step"] for c in listed["first"]["checkpoints"]]  # type: ignore[index]
    who = ("--adapters", "first,second", "--checkpoints", f"{min(steps)},{max(steps)}", "-n", "1")
    verse(folder, "refine", "start", *who, "--base-url", workshop.served.base_url)
    plan = folder / "rounds" / "01" / "plan.toml"
    text = plan.read_text("utf-8")
    write = ["--max-tokens", MAX_TOKENS, "--temperature", "0.7"]
    for key, value in (("train", training(qwen, 2)), ("generate", write), ("compare", write)):
        assert text.count(f"\n{key} = []") == 1
        text = text.replace(f"\n{key} = []", f"\n{key} = {json.dumps(value)}")
    plan.write_text(text, "utf-8")

    made = folder / "rounds" / "01"
    with workshop.timed("generate, s"):
        verse(folder, "refine", "generate")
    written = read_items([made / "poems.jsonl"])
    assert len(written) == NUM_POEMS
    assert {(item.candidate.adapter, item.candidate.checkpoint) for item in written} == {
        (name, step) for name in ("first", "second") for step in (min(steps), max(steps))
    }
    with workshop.timed("filter and judge, s"):
        verse(folder, "refine")
    ranked = read_ranked(made / "ranked.json")
    judged = [row for row in ranked.poems if row.filtered is None]
    assert ranked.judges[0].outcomes == {"judged": len(judged)}
    decide(made / "ranked.json")
    with workshop.timed("convert, train and compare, s"):
        assert "rounds/01 is complete" in verse(folder, "refine")
    compared = json.loads((made / "compare" / "numbers.json").read_text("utf-8"))
    assert [side["name"] for side in compared] == ["first", "first-r01"]
    assert all(side["valid_loss"] and side["num_poems"] == len(THEMES) for side in compared)
    report = ("--decisions", str(made / "decisions.jsonl"), "-i", str(made / "ranked.json"))
    figures["poems an hour"] = round(NUM_POEMS * 3600 / figures["generate, s"])
    figures["judged"] = len(judged)
    figures["compared"] = compared
    show("\n" + json.dumps(figures, indent=1, ensure_ascii=False))
    show(verse(folder, "judge", "report", *report))
    for row in ranked.poems[:6]:
        poem = row.candidate
        show(f"\n{poem.theme} ({poem.model}, {row.score or 0:.2f})\n{poem.text}")


def test_the_model_itself_judges_forty_poems_in_json(workshop: Workshop) -> None:
    folder, url = workshop.folder, workshop.served.base_url
    where = ("--base-url", url)
    themes = ("--themes", "data/themes.txt", "--adapters", "first,second", "--temperature", "0.8")
    verse(
        folder, "generate", *where, *themes, "-n", "2", "--max-tokens", MAX_TOKENS, "-o", "w.jsonl"
    )
    poems = (folder / "w.jsonl").read_text("utf-8").splitlines(keepends=True)
    complete = [line for line in poems if json.loads(line)["finish_reason"] == "stop"]
    chosen = (complete + [line for line in poems if line not in complete])[:40]
    (folder / "forty.jsonl").write_text("".join(chosen), "utf-8")
    judges = ("--judge", "likelihood", "--judge", "base", *where)
    how = ("--compare", "pairs", "--rounds", "1", "--margin", "5", "--max-tokens", "300")
    with workshop.timed("two judges of 40 poems, s"):
        verse(folder, "judge", "-i", "forty.jsonl", "-o", "forty.json", *judges, *how)
    ranked = read_ranked(folder / "forty.json")
    asked = {judge.name: judge for judge in ranked.judges}["base"]
    assert asked.format == "json_schema"
    assert asked.outcomes["judged"] >= 0.9 * sum(asked.outcomes.values())
    show("\n" + json.dumps({**workshop.figures, **_of_judges(ranked)}, indent=1))


def _of_judges(ranked: Ranked) -> dict[str, object]:
    report = make_report(ranked, [])
    (between,) = report.between
    own = consistency(ranked.comparisons, "base")
    return {
        "answers": {judge.name: judge.outcomes for judge in ranked.judges},
        "picks the first": str(own.first_picks),
        "flips": str(own.flips),
        "agreement with likelihood (Spearman)": between.spearman,
        "kappa": between.kappa,
    }
