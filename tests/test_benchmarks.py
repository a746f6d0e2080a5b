"""The benchmarks are run by hand, so that nobody would notice what a rename broke in them."""

import asyncio
import importlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from argparse import ArgumentTypeError, Namespace
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from benchmarks import batch, training
from benchmarks.client import Answer
from benchmarks.parties import Server
from benchmarks.serving import llama, victims
from benchmarks.serving.arrivals import Piece, arrivals, going_first
from benchmarks.serving.bench import Request
from benchmarks.serving.table import in_turn

ROOT = Path(__file__).parents[1]
MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in (ROOT / "benchmarks").rglob("*.py")
)


@pytest.mark.parametrize("name", MODULES)
def test_a_benchmark_finds_all_that_it_imports(name: str) -> None:
    importlib.import_module(name)


def test_pieces_of_a_measurement_are_put_together(tmp_path: Path) -> None:
    file = tmp_path / "poems.json"
    assert batch.earlier(file) == {}
    process, ours = batch.Way(60, 600.0, 400.0, 3000), batch.Way(60, 5.0, 45.0, 3000)
    file.write_text(json.dumps({"ways": {batch.PIECES["process"]: asdict(process)}}))
    ways = batch.earlier(file) | {batch.PIECES["generate"]: ours}
    assert "| one process per poem | 600.0 | 400.0 | 50 | 216 | 20.0 |" in batch.report(ways)
    assert batch.pieces("process,served") == ["process", "served"]
    with pytest.raises(ArgumentTypeError, match="'poem' is none of generate, batch"):
        batch.pieces("poem")


def _trained(seconds: list[float], caching: float = 0.0) -> dict[str, Any]:
    return {
        "tokens": [100] * len(seconds),
        "seconds": seconds,
        "caching_seconds": caching,
        "process_bytes": 2e9,
        "peak_bytes": 1e9,
        "never_seen": 0,
    }


def test_all_ways_sample_alike_whatever_the_base_recommends(tmp_path: Path) -> None:
    file = tmp_path / "generation_config.json"
    assert batch.without_own_sampling(tmp_path) == tmp_path
    file.write_text('{"eos_token_id": [7, 8], "do_sample": true, "top_k": 20}', "utf-8")
    batch.without_own_sampling(tmp_path)
    assert json.loads(file.read_text("utf-8")) == {"eos_token_id": [7, 8]}


def test_what_was_measured_is_kept_when_the_next_piece_is_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: object) -> batch.Way:
        raise KeyboardInterrupt

    def prepared(*_: object) -> batch.Work:
        return batch.Work(tmp_path, tmp_path, tmp_path, ("one",), [("河", "one")])

    def measured(*_: object) -> batch.Way:
        return ours

    ours = batch.Way(60, 5.0, 45.0, 3000)
    monkeypatch.setattr(batch, "prepare", prepared)
    monkeypatch.setattr(batch, "alone", measured)
    monkeypatch.setattr(batch, "one_process_per_poem", stopped)
    options = Namespace(
        only=["generate", "process"], output=tmp_path / "batch.json", served=1, processes=1, ours=0
    )
    with pytest.raises(KeyboardInterrupt):
        batch.measure(options)
    assert batch.earlier(options.output) == {batch.PIECES["generate"]: ours}


def test_a_process_as_installed_gets_the_base_as_it_is_and_no_openblas(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ran(command: list[str], **_: object) -> CompletedProcess[str]:
        commands.append(command)
        told = "Prompt: 36 tokens, 9.0 tokens-per-sec\nGeneration: 20 tokens, 4.0 tokens-per-sec"
        return CompletedProcess(command, 0, told)

    commands: list[list[str]] = []
    monkeypatch.setattr(batch.subprocess, "run", ran)
    work = batch.Work(Path("given"), Path("copy"), tmp_path, ("one",), [("河", "one")] * 3)
    helped = batch.one_process_per_poem(work, 1)
    installed = batch.one_process_per_poem(work, 1, as_installed=True)
    assert helped.tokens == installed.tokens == 60
    assert [command[command.index("--model") + 1] for command in commands] == ["copy", "given"]
    assert commands[1][1:3] == ["-m", "mlx_lm.generate"]
    assert "openblas" in "".join(commands[0])
    assert "openblas" not in "".join(commands[1])


def test_whoever_watches_goes_first_and_leaves_no_priority_to_what_is_started_later() -> None:
    before = os.getpriority(os.PRIO_PROCESS, 0)
    with going_first():
        meanwhile = os.getpriority(os.PRIO_PROCESS, 0)
    assert meanwhile <= before
    assert os.getpriority(os.PRIO_PROCESS, 0) == before


def test_a_training_measurement_goes_on_and_counts_the_first_step_only_if_it_is_alone(
    tmp_path: Path,
) -> None:
    file, fresh = tmp_path / "training.json", {"num_rows": 8, "settings": {"iters": 3}}
    names = [training.LORA, training.NOW, training.AS_INSTALLED]
    fresh |= {"every": 1, "steps_per_epoch": 2, "rivals": names}
    rounds = ([_trained([9.0, 2.0, 2.0])] * 3, [_trained([9.0, 0.5, 0.5], 10.0)] * 3)
    of = dict(zip(names, (*rounds, [_trained([50.0])]), strict=True))
    assert training.continued(file, fresh) == fresh
    training.save(file, fresh | {name: {"rounds": figures} for name, figures in of.items()})
    found = training.continued(file, fresh | {"rivals": names[:2]})
    # Ten seconds over ten epochs of two steps are half a second a step.
    assert "| tokens/s | 50.0 | 100.0 | 2.0 |" in training.report(found)
    assert "| Verse is so many times as fast | 2.00 | 1.00 | 50.00 |" in training.report(found)
    with pytest.raises(SystemExit, match="another measurement"):
        training.continued(file, fresh | {"settings": {"iters": 4}})


def test_a_training_measurement_is_made_process_by_process_and_cut_off_without_loss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[str] = []
    is_cut_off = False

    def run(_python: str, program: str, own: dict[str, Any]) -> Any:
        started.append("losses" if program is training.EVALUATE else Path(own["adapter_path"]).name)
        if is_cut_off:
            raise KeyboardInterrupt
        if program is training.EVALUATE:
            return {"3": 1.5}
        Path(own["adapter_path"]).mkdir()
        return _trained([9.0, 2.0, 2.0])

    def prepare(folder: Path, _base: str) -> dict[str, Any]:
        data = folder / "data"
        data.mkdir(exist_ok=True)
        (data / "train.jsonl").write_text("{}\n" * 8)
        return {"model": "base", "data": str(data)}

    monkeypatch.setattr(training, "run_program", run)
    monkeypatch.setattr(training, "prepare_files", prepare)
    given = ["--iters", "3", "--rounds", "2", "--folder", str(tmp_path / "work")]
    given += ["--output", str(tmp_path / "figures.json"), "--processes"]

    def piece(most: int) -> dict[str, Any]:
        return training.measure(training.parse([*given, str(most)]))

    piece(1)
    is_cut_off = True
    with pytest.raises(KeyboardInterrupt):
        piece(9)
    is_cut_off = False
    piece(1)
    result = piece(9)
    assert started == [
        "mlx_lm.lora-0",
        *["losses"] * 2,  # of which one was cut off
        "Verse-0",
        "losses",
        "mlx_lm.lora-1",
        "Verse-1",
    ]
    assert [len(result[name]["rounds"]) for name in (training.LORA, training.NOW)] == [2, 2]
    assert "| valid loss at step 3 | 1.5000 | 1.5000 |" in training.report(result)
    result[training.LORA]["valid_loss"] = {"3": 1.6}
    assert "| Verse's differs at most by | 6.25% | 0.00% |" in training.report(result)


@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone keeps the peak of one program")
def test_the_peak_of_a_process_is_not_that_of_the_one_that_started_it() -> None:
    held = bytearray(200 << 20)
    held[:: 1 << 12] = bytes(len(held) >> 12)  # every page is there
    program = training.PEAK + "print(peak_bytes())"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert int(found.stdout) < 100 << 20 < len(held)


def seconds_a_piece_read_late_seems_late() -> float:
    """How long after it was sent a piece is said to have come, which was read 0.1 s later."""
    asked, go, done, sent = threading.Event(), threading.Event(), threading.Event(), list[float]()

    def serve(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(1)
            asked.set()
            go.wait(60)
            connection.sendall(b"poem")
            sent.append(time.perf_counter())
            done.set()

    async def read_late(port: int) -> list[Piece]:
        async def read() -> list[Piece]:
            return [piece async for piece in arrivals(port, b"?")]

        reading = asyncio.create_task(read())
        await asyncio.to_thread(asked.wait, 60)
        go.set()
        done.wait(60)  # the loop stands still, as if others had the cores
        threading.Event().wait(0.1)
        return await reading

    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = threading.Thread(target=serve, args=(listener,))
        server.start()
        (piece,) = asyncio.run(read_late(listener.getsockname()[1]))
        server.join()
    assert piece.data == b"poem"
    return piece.at - sent[0]


@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone says when bytes came")
def test_a_piece_has_the_time_at_which_it_came_though_it_was_read_later() -> None:
    # Linux begins to note times a moment after it was first asked to, later where it has no core.
    assert any(seconds_a_piece_read_late_seems_late() < 0.09 for _ in range(10))


def test_servers_take_turns_back_and_forth() -> None:
    assert [in_turn("abc", number) for number in range(3)] == [
        list("abc"),
        list("cba"),
        list("abc"),
    ]


def test_a_line_asks_all_servers_for_new_themes_in_each_turn_or_for_known_ones_once_more() -> None:
    themes = llama.new_themes(3)
    of = {line.name: line for line in llama.lines((1, 8, 16), 64)}
    assert list(of)[:3] == ["base @1", "first token, ms", "known prompt, ms"]
    assert list(of)[3:] == ["base @8", "base @16", "16 adapters @16"]
    assert [of[name].tokens for name in ("base @1", "first token, ms", "base @8")] == [64, 4, 64]
    plans = {name: line.plan(themes) for name, line in of.items()}
    assert [len(plan) for plan in plans.values()] == [4, 5, 6, 1, 1, 1]
    first, *again = plans.pop("known prompt, ms")
    assert again == [first] * 5
    asked = [request.theme for plan in plans.values() for turn in plan for request in turn]
    assert len(set(asked)) == len(asked) == 4 + 5 + 8 + 16 + 16
    poets = {request.model for request in plans["16 adapters @16"][0]}
    assert len(poets) == 16
    assert [line.turns for line in llama.lines((16, 32), 64)] == [5, 5, 1, 1, 1]
    assert llama.lines((8,), 64)[0].name == "first token, ms"


def test_a_round_measures_a_line_of_all_servers_before_the_next_and_all_live_until_its_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: list[str] = []

    @contextmanager
    def start(name: str) -> Generator[Server]:
        told.append(f"+{name}")
        yield Server(1, os.getpid(), 2.0)
        told.append(f"-{name}")

    async def ask_all(port: int, bodies: list[dict[str, Any]], streams: int) -> list[Answer]:
        told.append(bodies[0]["party"])
        answers = [Answer(completion_tokens=body["tokens"]) for body in bodies]
        for answer in answers:
            answer.times.append(answer.started + 1)
        return answers

    async def ask(port: int, body: dict[str, Any]) -> None:
        told.append(f"first of {body['party']}")

    def party(name: str, only: str = "") -> llama.Party:
        def body(request: Request, tokens: int) -> dict[str, Any]:
            return {"party": name, "tokens": tokens}

        return llama.Party(name, lambda: start(name), body, lambda line: only in line.name)

    monkeypatch.setattr(llama, "ask_all", ask_all)
    monkeypatch.setattr(llama, "ask", ask)
    monkeypatch.setattr(llama, "peak_bytes", int)  # of a number: that of the process
    lines = [llama.Line("known, ms", 1, 1, 4, known=True), llama.Line("base @2", 2, 2, 4)]
    figures: llama.Figures = {"a": {}, "b": {}, "before": {}}
    kept: list[str] = []
    found = [party("a"), party("b"), party("before", "base @2")]
    llama.measure(found, lines, 0, figures, kept.append)
    starts = [[f"+{name}", f"first of {name}", name] for name in figures]
    assert told[:9] == [step for steps in starts for step in steps]
    assert told[9:13] == ["b", "a", "a", "b"]  # the first of each is the one that makes it known
    assert told[13:19] == ["before", "b", "a", "a", "b", "before"]
    assert told[19:] == ["-before", "-b", "-a"]
    assert kept == ["start, s", "known, ms", "base @2", "peak, MB"]
    assert figures["a"]["known, ms"] == [pytest.approx(1000)]
    assert [len(figures["b"]["base @2"]), list(figures["before"])] == [
        2,
        ["start, s", "base @2", "peak, MB"],
    ]


def test_servers_are_compared_turn_by_turn_in_the_rounds_that_have_both() -> None:
    first = {"q8": {"base @1": [10.0, 40.0, 20.0]}, "int8": {"base @1": [20.0, 40.0, 60.0]}}
    second = {"q8": {"base @1": [10.0], "peak, MB": [7.0]}, "int8": {"base @1": [10.0]}}
    alone = {"q4": {"base @1": [99.0], "first token, ms": [70.0]}}
    result = {"tokens": 64, "rivals": ["q8", "q4"], "rounds": [first, second, alone]}
    assert llama.report(result) == [
        "| 64 tokens | q8 | int8 | q4 |",
        "|---|---|---|---|",
        "| base @1 | 15.0 | 25.0 | 99.0 |",
        "| first token, ms |  |  | 70 |",
        "| peak, MB | 7 |  |  |",
        "",
        "| ratio | int8 / q8 | int8 / q4 |",
        "|---|---|---|",
        "| base @1 | 1.50 |  |",
        "| first token, ms |  |  |",
        "| peak, MB |  |  |",
    ]
    assert len(llama.report({**result, "rivals": []})) == 5


def test_a_machine_too_small_for_all_servers_together_is_told_of(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(bytes(1000))
    assert llama.memory_warning(2, tmp_path, 3200) == ""
    assert llama.memory_warning(2, tmp_path, None) == ""
    assert llama.memory_warning(2, tmp_path, 3199).startswith("2 servers may hold")


def test_what_victims_felt_is_the_median_of_the_rounds() -> None:
    def felt(steps: float, held: float, *failures: str) -> dict[str, Any]:
        figures = {"steps": steps, "health": 0.01 * steps, "first": 0.2, "memory": held * 2**20}
        memory = {"after 50 requests": 100 << 20, "at the end": held * 2**20}
        return {"attacks": {"nothing": figures}, "memory": memory, "failures": [*failures]}

    rounds = [
        {"old": felt(5, 100, "late"), "new": felt(1, 50)},
        {"new": felt(9, 70), "old": felt(2, 200)},
        {"old": felt(1, 300, "lost"), "new": felt(2, 60)},
    ]
    text = "\n".join(victims.report({"rounds": rounds}))
    assert "| nothing | 2.0 | 2.0 | 20 | 20 | 200 | 200 | 200 | 60 |" in text
    assert "old: after 50 requests 100 MiB, at the end 200 MiB (2.00 of" in text
    assert "old: 2 failures, late, lost" in text


def test_llama_server_holds_adapters_only_where_they_are_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def started(_binary: Path, gguf: Path, loras: list[Path], **_: int) -> tuple[str, int]:
        return str(gguf), len(loras)

    def write_adapters(*_: object) -> list[str]:
        return [f"poet{n:04d}" for n in range(16)]

    def write_gguf_adapter(_: Path, file: Path) -> Path:
        return file

    monkeypatch.setattr(llama, "write_adapters", write_adapters)
    monkeypatch.setattr(llama, "write_gguf_adapter", write_gguf_adapter)
    monkeypatch.setattr(llama, "llama_server", started)
    options = Namespace(model=str(tmp_path), streams=(1, 16), server=None, before="old", only=())
    options.gguf, options.llama_server, options.threads = [("q8", "q8.gguf")], "binary", 2
    found = llama.parties(options, tmp_path)
    assert [party.name for party in found] == ["q8", "q8", "Verse", "before"]
    assert [party.start() for party in found[:2]] == [("q8.gguf", 0), ("q8.gguf", 16)]
    takes = {line.name: [party.takes(line) for party in found] for line in llama.lines((1, 16), 64)}
    assert takes.pop("16 adapters @16") == [False, True, True, False]
    assert takes.pop("base @16") == [True, False, True, True]
    assert set(map(tuple, takes.values())) == {(True, False, True, False)}
    options.only = ("q4",)
    with pytest.raises(SystemExit, match="no server 'q4'; there are q8, Verse, before"):
        llama.parties(options, tmp_path)


def test_two_servers_of_one_name_share_its_column(monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def start(pid: int) -> Generator[Server]:
        yield Server(1, pid, float(pid))

    async def ask(*_: object) -> list[Answer]:
        return []

    def body(request: Request, tokens: int) -> dict[str, Any]:
        return {}

    def party(pid: int) -> llama.Party:
        return llama.Party("q8", lambda: start(pid), body, lambda line: False)

    monkeypatch.setattr(llama, "ask_all", ask)
    monkeypatch.setattr(llama, "ask", ask)
    monkeypatch.setattr(llama, "peak_bytes", int)
    figures: llama.Figures = {"q8": {}}
    lines = llama.lines((1,), 64)
    llama.measure([party(3), party(5)], lines, 1, figures, print)
    assert figures == {"q8": {"start, s": [pytest.approx(3, abs=1)], "peak, MB": [5e-6]}}
