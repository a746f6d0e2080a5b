"""The whole round with the real server and the real commands, on verse-tiny."""

import json
import re
import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.e2e.conftest import ROOT, VERSE, Serve
from verse.decision_journal import open_journal
from verse_clients.curate.session import CurationSession
from verse_clients.decisions.sources import read_items
from verse_clients.judge.ranked import read_ranked

# Short: two steps teach nothing, but take every part of the way.
TRAIN = '["--model", "MODEL", "--iters", "2", "--batch-size", "2", "--save-every", "2"]'

pytestmark = pytest.mark.slow


def verse(folder: Path, *words: str, timeout: float = 600) -> str:
    ran = subprocess.run(
        [VERSE, *words],
        cwd=folder,
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
        timeout=timeout,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def decide(poems: Path) -> None:
    """As the poet would in the window, blind: accept, shorten and reject in turn."""
    store = open_journal(poems.with_name("decisions.jsonl"))
    session = CurationSession(
        read_items([poems]),
        store.entries,
        write=store.write,
        clock=lambda: datetime.now(UTC),
        session_id="test",
    )
    session.set_order("shuffle")
    for number in range(len(session.items)):
        assert session.current is not None
        if number % 3 == 1:
            session.edit(shortened(session.current.item.candidate.text))
        else:
            session.decide("reject" if number % 3 else "accept")
    assert store.close()


def shortened(poem: str) -> str:
    """Without its last line, or without its last character if it has only one."""
    lines = poem.splitlines()
    return "\n".join(lines[:-1]) if len(lines) > 1 else poem[:-1]


def test_a_round_goes_from_writing_to_a_new_adapter_that_is_served_without_any_key(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    folder = tmp_path / "poet"
    (folder / "data").mkdir(parents=True)
    shutil.copytree(ROOT / "adapters" / "xuzhimo", folder / "adapters" / "xuzhimo")
    poems = (ROOT / "data" / "poems.jsonl").read_text("utf-8").splitlines(keepends=True)
    shortest = sorted(poems, key=len)[:16]
    (folder / "data" / "poems.jsonl").write_text("".join(shortest), "utf-8")
    (folder / "data" / "themes.txt").write_text("河\n灯\n母亲\n", "utf-8")
    served = serve(adapters=folder / "adapters")

    verse(folder, "data", "split")
    start = ("refine", "start", "--adapters", "xuzhimo", "-n", "2")
    verse(folder, *start, "--base-url", served.base_url)
    plan = folder / "rounds" / "01" / "plan.toml"
    text = plan.read_text("utf-8")
    for key, value in (
        ("train = []", f"train = {TRAIN.replace('MODEL', str(ROOT / 'models' / 'verse-tiny'))}"),
        ("generate = []", 'generate = ["--max-tokens", "120"]'),
    ):
        assert text.count(key) == 1
        text = text.replace(key, value)
    plan.write_text(text, "utf-8")

    asked = verse(folder, "refine")
    queue = re.search(r"verse curate (\S+)", asked)
    assert queue is not None, asked
    ranked = read_ranked(folder / queue[1])
    # On another processor one may come out too short to be judged.
    judged = [poem for poem in ranked.poems if poem.filtered is None]
    assert [judge.outcomes for judge in ranked.judges] == [{"judged": len(judged)}]
    assert all(poem.likelihood and poem.likelihood.voice for poem in judged)
    assert [poem.rank for poem in judged] == [*range(1, len(judged) + 1)]
    decide(folder / queue[1])
    assert "rounds/01 is complete" in verse(folder, "refine")

    made = folder / "rounds" / "01"
    rows = (made / "data" / "train.jsonl").read_text("utf-8").splitlines()
    origins = [json.loads(row)["origin"] for row in rows]
    assert {"poet", "accepted", "edited"} == set(origins)
    assert {item.adapter for item in read_items([made / "compare" / "poems.jsonl"])} == {
        "xuzhimo", "xuzhimo-r01",
    }  # fmt: skip
    assert "xuzhimo-r01" in {listed.id for listed in served.client.models.list()}

    decide(made / "compare" / "poems.jsonl")
    verse(folder, "report", "rounds")
    report = (folder / "report.md").read_text("utf-8")
    assert "| xuzhimo-r01@" in report
    status = verse(folder, "refine", "status")
    assert re.findall(r"^(\w+) +done ", status, re.MULTILINE) == [
        "generate", "filter", "judge", "curate", "convert", "train", "compare",
    ]  # fmt: skip
