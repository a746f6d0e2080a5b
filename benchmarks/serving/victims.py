"""What others feel while a server is attacked: the widest gap of running streams, and /health.

    uv run python -m benchmarks.serving.victims
    uv run python -m benchmarks.serving.victims --server before=OLD/bin/verse --server now=verse \
        --rounds 3 --output victims.json

Beside each attack (`attacks`) run three streams, the victims, begun one after another so that there
is always one in its middle, and a probe asks for /health ten times a second. An attack is a process
of its own, which has made all that it sends before the clock starts. For every attack and server a
row tells

    widest gap      the longest between two tokens of a victim, in median steps meanwhile
    slowest health  the longest that /health took
    first token     the longest that a victim's first token took
    memory          what the process held afterwards

and at the end what it held after 50 requests and after everything and a rest. In every round each
server is started afresh and bears all attacks, in an order that turns around from round to round;
shown is the median of each figure, for the widest gap of one run is that of the machine as much as
of the server: the row `nothing` tells how wide it is without any attack. About four minutes for a
server and a round on two cores; figures mean something only where nothing else runs.
"""

import argparse
import asyncio
import gc
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.client import STREAMED, Answer, ask, chat_request
from benchmarks.parties import (
    ROOT,
    Server,
    add_model_option,
    machine,
    resident_bytes,
    served,
    some_of,
)
from benchmarks.serving import attacks
from benchmarks.serving.arrivals import arrivals, going_first
from benchmarks.serving.bench import Bench, Request, Settings, verse_body, workbench
from benchmarks.serving.publish import tokens_without_text
from benchmarks.serving.table import in_turn, markdown

_VICTIMS = 3
_TOKENS = 300
_QUIET_SECONDS = 4.0
_TAIL_SECONDS = 1.0
_HEALTH_PAUSE_SECONDS = 0.1
_RECOVERY_SECONDS = 30.0
_REST_SECONDS = 10.0
_AIM_STEPS, _AIM_SECONDS = 3.0, 0.1


@dataclass
class Watch:
    """What victims and the probe have seen."""

    streams: list[Answer] = field(default_factory=list[Answer])
    health: list[tuple[float, float]] = field(default_factory=list[tuple[float, float]])
    """When each probe began, and what it took."""
    failures: list[str] = field(default_factory=list[str])

    def figures(self, start: float, end: float, quiet_step: float = 0.0) -> dict[str, float]:
        """Of a span of time; a gap counts where any of it falls into the span.

        Args:
            start: In seconds of `time.perf_counter`.
            end: Likewise.
            quiet_step: A step takes as long at least: what has piled up arrives faster.
        """
        gaps = [
            later - earlier
            for stream in self.streams
            for earlier, later in pairwise(stream.times)
            if later > start and earlier < end
        ]
        waits = [
            (stream.times[0] if stream.times else end) - stream.started
            for stream in self.streams
            if stream.started < end and (not stream.times or stream.times[0] > start)
        ]
        took = [
            seconds for begun, seconds in self.health if begun + seconds > start and begun < end
        ]
        step = max(median(gaps) if gaps else 0.0, quiet_step)
        return {
            "step": step,
            "mean step": sum(gaps) / len(gaps) if gaps else 0.0,
            "gap": max(gaps, default=0.0),
            "steps": max(gaps, default=0.0) / step if step else 0.0,
            "health": max(took, default=0.0),
            "first": max(waits, default=0.0),
        }


def main(arguments: Sequence[str] | None = None) -> None:
    """Attack every server, print a table, and keep the raw figures if asked."""
    options = _parser().parse_args(arguments)
    ours = f"now={Path(sys.executable).with_name('verse')}"
    commands = dict(server.split("=", 1) for server in options.server or [ours])
    result: dict[str, Any] = {"machine": machine(), "rounds": []}
    settings = Settings(rounds=1, tokens=_TOKENS, streams=(1,), folders=0, model=options.model)
    with workbench(settings) as bench:
        staged = bench.folder / "staged"
        attacks.stage(staged, bench.adapters / bench.names[0])
        for number in range(options.rounds):
            result["rounds"].append({})
            for name in in_turn(list(commands), number):
                print(f"\nround {number + 1}, {name}: {commands[name]}", flush=True)
                measured = _measure(bench, staged, commands[name], options.only)
                result["rounds"][-1][name] = measured
                if options.output:
                    options.output.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    print("\n".join(report(result)))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.serving.victims",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    add = parser.add_argument
    add("--server", action="append", help="NAME=COMMAND that 'serve' is added to; repeat it")
    every = attacks.ATTACKS
    add("--only", type=some_of(every), default=tuple(every), help="attacks, with commas between")
    add("--rounds", type=int, default=1, help="medians are over so many (1)")
    add_model_option(parser)
    add("--output", type=Path, help="write the raw numbers to this JSON file")
    return parser


def _measure(bench: Bench, staged: Path, command: str, names: Sequence[str]) -> dict[str, Any]:
    """One server for all attacks, but for those that need one with other settings."""
    folders = ["--model", str(bench.model), "--adapters", str(bench.adapters)]
    apart = [name for name in names if name in attacks.OPTIONS]
    together = [name for name in names if name not in attacks.OPTIONS]
    runs = [([name], attacks.OPTIONS[name]) for name in apart] + [(together, ())]
    figures, failures, memory = dict[str, Any](), list[str](), dict[str, int]()
    for some, options in runs:
        poets = bench.names[:1] if options else bench.names
        with served([*command.split(), "serve", *folders, *options]) as server, going_first():
            result = asyncio.run(_run(bench, server, staged, some, poets))
        figures |= result["attacks"]
        failures += result["failures"]
        memory = result["memory"]
    return {"attacks": figures, "memory": memory, "failures": failures}


async def _run(
    bench: Bench, server: Server, staged: Path, names: Sequence[str], poets: Sequence[str]
) -> dict[str, Any]:
    gc.freeze()  # or a collection of all that was loaded would be taken for the server's pause
    bias = dict.fromkeys(tokens_without_text(bench.model), -100)
    memory = {"started": resident_bytes(server.pid)}
    for number in range(50):
        await ask(server.port, verse_body(Request("河", poets[number % len(poets)]), 4))
    memory["after 50 requests"] = resident_bytes(server.pid)
    watch, figures = Watch(), dict[str, Any]()
    watchers = [
        asyncio.create_task(_victim(watch, server, poets[n % len(poets)], bias, n))
        for n in range(_VICTIMS)
    ]
    watchers.append(asyncio.create_task(_probe(watch, server)))
    await asyncio.sleep(_QUIET_SECONDS / 2)  # the first steps are of fewer streams
    for name in ("nothing", *names):
        quiet_step = figures["nothing"]["mean step"] if figures else 0.0
        figures[name] = await _phase(watch, server, bench, staged, name, quiet_step)
        print(f"{name:16} {_shown(figures[name])}", flush=True)
    for watcher in watchers:
        watcher.cancel()
    await asyncio.gather(*watchers, return_exceptions=True)
    forgotten = sum(not s.times for s in watch.streams if time.perf_counter() - s.started > 20)
    if forgotten:
        watch.failures.append(f"{forgotten} streams got no token at all")
    await asyncio.sleep(_REST_SECONDS)
    memory["at the end"] = resident_bytes(server.pid)
    return {"attacks": figures, "memory": memory, "failures": watch.failures}


async def _phase(
    watch: Watch, server: Server, bench: Bench, staged: Path, name: str, quiet_step: float
) -> dict[str, float]:
    if name == "nothing":
        start = time.perf_counter()
        await asyncio.sleep(_QUIET_SECONDS)
    else:
        place = [name, str(server.port), str(bench.adapters), str(staged)]
        attack = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "benchmarks.serving.attacks", *place),
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert attack.stdin is not None
        assert attack.stdout is not None
        if not await attack.stdout.readline():
            raise SystemExit(f"The attack {name} could not be prepared.")
        await asyncio.sleep(_TAIL_SECONDS)
        start = time.perf_counter()
        attack.stdin.write(b"\n")
        try:
            await asyncio.wait_for(attack.wait(), 3 * attacks.MAX_SECONDS)
        except TimeoutError:
            attack.kill()
            await attack.wait()
        await asyncio.sleep(_TAIL_SECONDS)
        await _recovery(watch)
    figures = watch.figures(start, time.perf_counter(), quiet_step)
    return {**figures, "memory": resident_bytes(server.pid)}


async def _recovery(watch: Watch) -> None:
    """Until a victim and /health have been served again, so that the next attack starts afresh."""
    asked = time.perf_counter()
    while time.perf_counter() - asked < _RECOVERY_SECONDS:
        written = any(
            stream.times and stream.times[-1] > asked for stream in watch.streams[-_VICTIMS:]
        )
        if written and watch.health and watch.health[-1][0] > asked:
            return
        await asyncio.sleep(0.05)


async def _victim(
    watch: Watch, server: Server, poet: str, bias: dict[int, int], number: int
) -> None:
    """One stream after another, each begun when the one before it ends."""
    await asyncio.sleep(number * _QUIET_SECONDS / 2 / _VICTIMS)
    tokens = _TOKENS + 30 * number  # so that they do not come to end together
    body = verse_body(Request("河", poet), tokens, logit_bias=bias, **STREAMED)
    while True:
        answer = Answer()
        watch.streams.append(answer)
        try:
            await _follow(server.port, chat_request(body), answer)
        except Exception as error:  # noqa: BLE001  (whatever it was, it is told)
            watch.failures.append(repr(error)[:200])
            await asyncio.sleep(0.1)


async def _follow(port: int, request: bytes, answer: Answer) -> None:
    status, rest = b"", b""
    async with aclosing(arrivals(port, request)) as pieces:
        async for data, at in pieces:
            *lines, rest = (rest + data).split(b"\r\n")
            for line in lines:
                status = status or line
                for part in line.split(b"\n"):
                    answer.take(part, at)
    if b" 200 " not in status:
        raise RuntimeError(status.decode() or "closed without an answer")


async def _probe(watch: Watch, server: Server) -> None:
    while True:
        begun = time.perf_counter()
        # Each time a new connection: to be accepted is a part of it. By hand, because a client of
        # httpx reads all certificates first, and the victims would wait for that.
        try:
            async with asyncio.timeout(_RECOVERY_SECONDS):
                pieces = [piece async for piece in arrivals(server.port, attacks.get("/health"))]
            answer, ended = b"".join(piece.data for piece in pieces), pieces[-1].at
            if not answer.startswith(b"HTTP/1.1 200"):
                watch.failures.append(f"/health: {answer[:100]!r}")
        except (OSError, IndexError) as error:  # a TimeoutError is one, too
            watch.failures.append(f"/health: {error!r}"[:200])
            ended = time.perf_counter()
        watch.health.append((begun, ended - begun))
        await asyncio.sleep(_HEALTH_PAUSE_SECONDS)


def _shown(figures: dict[str, float]) -> str:
    return (
        f"gap {figures['gap'] * 1e3:.0f} ms = {figures['steps']:.1f} steps, "
        f"/health {figures['health'] * 1e3:.0f} ms, "
        f"first token {figures['first'] * 1e3:.0f} ms, {figures['memory'] / 2**20:.0f} MiB"
    )


def report(result: dict[str, Any]) -> list[str]:
    """A row for each attack, the servers side by side; medians of the rounds."""
    servers = medians(result["rounds"])
    columns = ("widest gap, steps", "slowest /health, ms", "first token, ms", "memory, MiB")
    head = ["attack", *(f"{column}: {name}" for column in columns for name in servers)]
    names = list(dict.fromkeys(name for server in servers.values() for name in server["attacks"]))
    rows = [
        [name, *_cells([server["attacks"][name] for server in servers.values()])] for name in names
    ]
    memory = [f"{name}: {_memory(server['memory'])}" for name, server in servers.items()]
    failed = [
        f"{name}: {len(server['failures'])} failures, {', '.join(server['failures'][:3])}"
        for name, server in servers.items()
    ]
    aims = f"aims: {_AIM_STEPS:g} steps, {_AIM_SECONDS * 1e3:g} ms"
    return ["", aims, "", *markdown(head, rows), "", *memory, *failed]


def medians(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """Of each server what is usual; its failures are those of all rounds."""
    servers = dict[str, Any]()
    for name in rounds[0]:
        found = [of[name] for of in rounds if name in of]
        servers[name] = {
            "attacks": {
                attack: _medians([of["attacks"][attack] for of in found])
                for attack in found[0]["attacks"]
            },
            "memory": _medians([of["memory"] for of in found]),
            "failures": [failure for of in found for failure in of["failures"]],
        }
    return servers


def _medians(found: list[dict[str, float]]) -> dict[str, float]:
    return {key: median(of[key] for of in found) for key in found[0]}


def _cells(of_servers: list[dict[str, float]]) -> list[str]:
    return [
        *(f"{f['steps']:.1f}" + (" !" if f["steps"] > _AIM_STEPS else "") for f in of_servers),
        *(
            f"{f['health'] * 1e3:.0f}" + (" !" if f["health"] > _AIM_SECONDS else "")
            for f in of_servers
        ),
        *(f"{f['first'] * 1e3:.0f}" for f in of_servers),
        *(f"{f['memory'] / 2**20:.0f}" for f in of_servers),
    ]


def _memory(memory: dict[str, float]) -> str:
    parts = [f"{moment} {num_bytes / 2**20:.0f} MiB" for moment, num_bytes in memory.items()]
    ratio = memory["at the end"] / memory["after 50 requests"]
    return f"{', '.join(parts)} ({ratio:.2f} of that after 50 requests)"


if __name__ == "__main__":
    main()
