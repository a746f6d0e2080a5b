"""A hundred thousand poems: what is counted here is work, which must not grow with their number."""

import random
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest

from benchmarks.parties import resident_bytes
from tests.clients.bulk_server import ADAPTERS, characters, poem
from verse import jsonl
from verse.poem_files import json_files
from verse.records import Candidate, Sampling
from verse_clients.curate.queue import Slot
from verse_clients.curate.session import CurationSession
from verse_clients.decisions.sources import read_items
from verse_clients.generate.plan import Source, make_plan, missing
from verse_clients.judge.log_probabilities import contrasts
from verse_clients.judge.ranking import MAX_CONTESTED, contested_poems
from verse_clients.measures import MAX_SAMPLE, equal_samples
from verse_clients.screening import PoemMarker

NUM_POEMS = 3000
VERSE = Path(sys.executable).with_name("verse")


def texts(number: int) -> list[str]:
    return [poem("风雨雪月"[seed % 4], seed) for seed in range(number)]


def test_marking_compares_a_handful_of_poems_however_many_there_are() -> None:
    marker = PoemMarker()
    compared = [0]
    for seed in range(NUM_POEMS):
        text = poem("风雨雪月"[seed % 4], seed)[:30]
        marker.marked(Candidate(theme="风", text=text, sample=seed))
        if seed % (NUM_POEMS // 5) == NUM_POEMS // 5 - 1:
            compared.append(marker.num_compared)
    in_each_fifth = [later - sooner for sooner, later in pairwise(compared)]
    assert max(in_each_fifth) <= 2 * NUM_POEMS // 5


def test_many_versions_of_one_poem_are_held_against_the_first() -> None:
    """An adapter that has collapsed must not make the run stand still."""
    marker, rng = PoemMarker(), random.Random(1)
    first = "".join(rng.sample(sorted(set(characters())), 60))
    for number in range(240):
        changed = list(first)
        changed[number % 60] = "一二三四五"[number // 60]
        made = marker.marked(Candidate(theme="风", text="".join(changed), sample=number))
        assert (made.blocked == "duplicate") == (number > 0)
    assert marker.num_compared <= 3 * 240


def test_planning_and_resuming_look_at_each_poem_once() -> None:
    sources = [Source(name, name) for name in ADAPTERS]
    themes = [f"题{number}" for number in range(125)]
    plan = make_plan(
        themes, sources, [None], num_samples=NUM_POEMS // 1000, sampling=Sampling(), seed=0
    )
    assert len(plan) == NUM_POEMS == len({cell.seed for cell in plan})
    written = (
        Candidate(
            theme=cell.theme,
            text="诗",
            adapter=cell.source.adapter,
            sample=cell.sample,
            seed=cell.seed,
        )
        for cell in plan[:-7]
    )
    assert missing(plan, written) == plan[-7:]


def test_a_file_of_poems_is_read_line_by_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "poems.jsonl"
    jsonl.rewrite(path, (Candidate(theme="风", text=text) for text in texts(1000)))
    kept: list[int] = []
    real = json_files._object  # pyright: ignore[reportPrivateUsage]

    def counting(row: bytes) -> dict[str, msgspec.Raw] | None:
        kept.append(len(row))
        return real(row)

    monkeypatch.setattr(json_files, "_object", counting)
    assert len(read_items([path])) == 1000
    assert len(kept) <= 3 * 1000 + 10


def test_what_is_fitted_and_measured_has_a_size_of_its_own() -> None:
    totals = {str(number): number % 7 / 7 for number in range(3 * MAX_CONTESTED)}
    contested = contested_poems(totals, keep=0.4, margin=5)
    assert len(contested) == MAX_CONTESTED
    line = sorted(totals.values(), reverse=True)[round(0.4 * len(totals))]
    farthest = max(abs(totals[id_] - line) for id_ in contested)
    assert all(abs(totals[i] - line) >= farthest for i in totals.keys() - set(contested))
    drawn = equal_samples({"a": ["诗"] * 3 * MAX_SAMPLE, "b": ["诗"] * 4 * MAX_SAMPLE})
    assert {len(sample) for sample in drawn.values()} == {MAX_SAMPLE}


def test_contrasts_are_drawn_without_a_list_of_all_other_themes() -> None:
    poems = [Candidate(theme=f"题{number % 500}", text=f"诗{number}") for number in range(1000)]
    found = contrasts(poems, seed=3)
    assert all(each.poem.theme not in each.themes and len(each.themes) == 4 for each in found)
    rng = random.Random(f"3 {poems[0].id}")
    others = [theme for theme in sorted({p.theme for p in poems}) if theme != poems[0].theme]
    assert found[0].themes == tuple(rng.sample(others, 4))


def test_deciding_among_many_poems_looks_at_the_next_ones_alone(tmp_path: Path) -> None:
    path = tmp_path / "poems.jsonl"
    jsonl.rewrite(path, (Candidate(theme="风", text=text) for text in texts(1000)))
    items = read_items([path])
    looked_at = 0

    class Counting(CurationSession):
        def is_open(self, slot: Slot) -> bool:
            nonlocal looked_at
            looked_at += 1
            return super().is_open(slot)

    session = Counting(items, write=lambda _: None, clock=lambda: datetime.now(UTC))
    looked_at = 0
    for _ in range(100):
        session.decide("accept")
    assert looked_at <= 500
    assert session.item(items[-1].id) is not None


@pytest.fixture
def servers() -> Iterator[list[str]]:
    script = Path(__file__).with_name("bulk_server.py")
    running = [
        subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True)
        for _ in range(8)
    ]
    try:
        yield [process.stdout.readline().strip() for process in running if process.stdout]
    finally:
        for process in running:
            process.kill()
            process.communicate()


@pytest.mark.perf
def test_a_hundred_thousand_poems_by_eight_servers(
    tmp_path: Path, servers: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed in the middle and started again; prints time and memory at each 10,000."""
    monkeypatch.chdir(tmp_path)
    number = 100_000
    themes = tmp_path / "themes.txt"
    themes.write_text("".join(f"题{place}\n" for place in range(1250)), "utf-8")
    flags = [word for url in servers for word in ("--base-url", url)]
    command = [
        str(VERSE), "generate", "--themes", "themes.txt", "-n", str(number // 1250 // 8), *flags,
    ]  # fmt: skip
    poems = tmp_path / "poems.jsonl"
    begun = Progress(subprocess.Popen(command, stdout=subprocess.DEVNULL), poems)
    begun.watch(number // 2)
    begun.process.kill()
    begun.process.wait()
    again = Progress(subprocess.Popen(command, stdout=subprocess.DEVNULL), poems)
    kept = again.num_written
    again.watch(kept + 1)
    resumed = time.monotonic() - again.started
    again.watch(number)
    assert again.process.wait() == 0
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024
    print(  # noqa: T201
        f"\n{begun.report()}\nagain after {kept:,}: first poem after {resumed:.1f} s\n"
        f"{again.report()}\npeak {peak} MB"
    )
    written = jsonl.read(poems, msgspec.json.Decoder(Candidate))
    assert len(written) == len({(p.theme, p.adapter, p.sample) for p in written}) == number
    assert {p.server for p in written} == set(servers)
    assert peak < 500
    assert resumed < 30


class Progress:
    """A run of `verse generate`, and what it held when it had written so many poems."""

    def __init__(self, process: "subprocess.Popen[bytes]", poems: Path) -> None:
        self.process = process
        self.started = time.monotonic()
        self.num_written = 0
        self._poems = poems
        self._num_read = 0
        self._seen: list[tuple[int, float, float]] = []
        self._count()

    def watch(self, number: int) -> None:
        """Until there are so many poems, or it has ended."""
        while self.process.poll() is None and self.num_written < number:
            time.sleep(0.2)
            before = self.num_written
            self._count()
            if self.num_written // 10_000 > before // 10_000:
                seconds = time.monotonic() - self.started
                self._seen.append((self.num_written, seconds, resident_bytes(self.process.pid)))

    def report(self) -> str:
        """A line for each ten thousand."""
        lines = [f"{n:,} poems: {s:.0f} s, {b / 1e6:.0f} MB" for n, s, b in self._seen]
        return "\n".join(lines)

    def _count(self) -> None:
        """Of the file, only what is new is read."""
        if self._poems.exists():
            with self._poems.open("rb") as file:
                file.seek(self._num_read)
                fresh = file.read()
            self._num_read += len(fresh)
            self.num_written += fresh.count(b"\n")
