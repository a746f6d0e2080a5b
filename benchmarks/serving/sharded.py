"""What splitting a model among ranks costs: two ranks of a thread beside one process of one or two.

    uv run python -m benchmarks.serving.sharded --model QWEN [--output FILE] [--only 2x1]

Serves the same base in float32 in each way, in turn and alone on the machine:

    1x1     one process, one thread of OpenBLAS
    1x2     one process, two threads
    2x1     two ranks of this machine over loopback, one thread each

and prints completion tokens per second over HTTP at --streams, prefill counted, greedy, each answer
exactly --tokens long; how long the start took; and what each process held in memory, at the most
and at the end. About two minutes each for a model of 0.5 B on two cores. With --output the figures
are added to those that the file has, so that --only measures piece by piece.
"""

import argparse
import asyncio
import json
import subprocess
import time
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

from benchmarks.client import STREAMED, ask_all
from benchmarks.parties import (
    Server,
    add_model_option,
    machine,
    model_folder,
    numbers,
    peak_bytes,
    resident_bytes,
    served,
    some_of,
    verse_command,
)
from benchmarks.serving.bench import requests, verse_body
from benchmarks.serving.table import markdown

WAYS = {"1x1": (1, 1), "1x2": (1, 2), "2x1": (2, 1)}
"""Processes, and threads of each."""
_FIRST_PORT = 33331
_END_SECONDS = 30


@dataclass(frozen=True)
class Started:
    """A server, and the processes of its other ranks."""

    server: Server
    others: tuple[int, ...]


@contextmanager
def started(model: Path, folder: Path, ranks: int, threads: int) -> Generator[Started]:
    """Serve in one of the ways, until the block ends."""
    command = [*verse_command("serve"), "--model", str(model), "--adapters", str(folder)]
    if ranks == 1:
        with served(_with(threads, [*command, "--cpu-weights", "float32"])) as server:
            yield Started(server, ())
        return
    ring = folder / "ring.json"
    hosts = [[f"127.0.0.1:{_FIRST_PORT + rank}"] for rank in range(ranks)]
    ring.write_text(json.dumps(hosts), "utf-8")
    with ExitStack() as stack:
        of_rank = [_with(threads, command, MLX_RANK=n, MLX_HOSTFILE=ring) for n in range(ranks)]
        others = [stack.enter_context(_other(other)) for other in of_rank[1:]]
        # Ended first: the other ranks end with it.
        with served(of_rank[0]) as server:
            yield Started(server, tuple(others))


def _with(threads: int, command: list[str], **variables: object) -> list[str]:
    named = {"OPENBLAS_NUM_THREADS": threads, **variables}
    return ["env", *(f"{name}={value}" for name, value in named.items()), *command]


@contextmanager
def _other(command: list[str]) -> Generator[int]:
    process = subprocess.Popen(command)
    try:
        yield process.pid
        process.wait(_END_SECONDS)
    finally:
        process.kill()
        process.wait()


def measure(way: Started, streams: Sequence[int], tokens: int) -> dict[str, Any]:
    """Ask, and look at the processes."""
    figures: dict[str, Any] = {"start, s": way.server.start_seconds}
    asyncio.run(ask_all(way.server.port, _bodies(2, 2, 900), 2))  # for whatever is only done once
    for number, count in enumerate(streams):
        begun = time.perf_counter()
        bodies = _bodies(count, tokens, 100 * number)
        answers = asyncio.run(ask_all(way.server.port, bodies, count))
        written = sum(answer.completion_tokens for answer in answers)
        if written != count * tokens:
            raise SystemExit(f"{written} tokens came instead of {count * tokens}.")
        figures[f"tokens/s @{count}"] = written / (time.perf_counter() - begun)
    processes = [way.server.pid, *way.others]
    figures["peak, MB"] = [peak_bytes(process) / 1e6 for process in processes]
    figures["at the end, MB"] = [resident_bytes(process) / 1e6 for process in processes]
    return figures


def _bodies(count: int, tokens: int, start: int) -> list[dict[str, Any]]:
    of = requests((None,), count, start=start)
    return [verse_body(request, tokens, ignore_eos=True, **STREAMED) for request in of]


def report(ways: dict[str, dict[str, Any]]) -> list[str]:
    """A column a way, in the order of `WAYS`."""
    found = [name for name in WAYS if name in ways]
    keys = list(dict.fromkeys(key for name in found for key in ways[name]))
    rows: list[list[object]] = [
        [key, *(_shown(ways[name].get(key, "")) for name in found)] for key in keys
    ]
    return markdown(["processes x threads", *found], rows)


def _shown(figure: Any) -> str:
    if isinstance(figure, list):
        parts = cast(list[float], figure)
        return " and ".join(f"{part:.0f}" for part in parts)
    return figure if isinstance(figure, str) else f"{figure:.1f}"


def begun(file: Path | None, model: str, tokens: int) -> dict[str, Any]:
    """What to add to: what the file has, if it is of the same measurement."""
    fresh: dict[str, Any] = {"machine": machine(), "model": model, "tokens": tokens, "ways": {}}
    if file is None or not file.exists():
        return fresh
    known: dict[str, Any] = json.loads(file.read_text("utf-8"))
    if {**known, "ways": {}} != fresh:
        raise SystemExit(f"{file} is of another machine, model or length; move it away.")
    return known


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print the table, and keep the figures if asked."""
    options = _parser().parse_args(arguments)
    model = model_folder(options.model)
    result = begun(options.output, model.name, options.tokens)
    for name in options.only:
        with (
            TemporaryDirectory(prefix="verse-benchmark-") as folder,
            started(model, Path(folder), *WAYS[name]) as way,
        ):
            result["ways"][name] = measure(way, options.streams, options.tokens)
        if options.output:
            options.output.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    print(machine())
    print("\n".join(report(result["ways"])))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.serving.sharded",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    add = parser.add_argument
    add_model_option(parser)
    add("--only", type=some_of(WAYS), default=tuple(WAYS), help="some of 1x1,1x2,2x1")
    add("--streams", type=numbers, default=(1, 8, 32), help="1,8,32")
    add("--tokens", type=int, default=16, help="of every answer (16)")
    add("--output", type=Path, help="add the figures to this JSON file")
    return parser


if __name__ == "__main__":
    main()
