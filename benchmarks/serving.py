"""Verse against mlx_lm.server: tokens per second over HTTP, same model, same machine, same BLAS.

    uv run python benchmarks/serving.py [--seconds 8] [--rounds 3] [--output FILE]

Both servers run as subprocesses on verse-tiny, OpenBLAS loaded before mlx in both. They get a
float32 copy of it: Verse would make one itself on a CPU, and mlx_lm.server, which does not, would
compute in float16 without any BLAS. Each measurement is a closed loop: N clients send one request
after another for some seconds, and the completion tokens of the answers are counted. The rounds
visit every cell before the next one begins, so that a busy machine hits all cells alike; the table
shows medians.
"""

import argparse
import asyncio
import itertools
import json
import platform
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from safetensors.numpy import load_file, save_file

ROOT = Path(__file__).resolve().parents[1]
SHIPPED_MODEL = ROOT / "models" / "verse-tiny"
ADAPTERS = ("daiwangshu", "hushi", "libai", "liubannong", "wangwei", "wenyiduo", "xuzhimo")
THEMES = ("河", "春天", "月亮", "母亲", "旧车站", "雨后", "灯", "秋夜", "海", "归途")
CONCURRENCY = (1, 8, 16, 32)
MAX_TOKENS = 64
SYSTEM = "用户会给出一个主题，请按照给定的主题，切实准确简洁且情感丰富地写一首现代诗"

MLX_LM_SERVER = """
from verse import openblas
openblas.preload(spare_cores=1)
from mlx_lm.server import main
main()
"""


class Rival(ABC):
    """One server under one choice of adapters."""

    def __init__(
        self, name: str, base_url: str, model: Path, adapters: tuple[str | None, ...]
    ) -> None:
        self.name = name
        self.model = model
        self.base_url = base_url
        self._adapters = itertools.cycle(adapters)

    def body(self, theme: str) -> dict[str, Any]:
        """The next request. Greedy, so both draw tokens in the same way."""
        return {
            "messages": [
                {"role": "system", "content": SYSTEM},
                {"role": "user", "content": theme},
            ],
            "max_tokens": MAX_TOKENS,
            "temperature": 0,
            **self.names(next(self._adapters)),
        }

    @abstractmethod
    def names(self, adapter: str | None) -> dict[str, str]:
        """How this server is told which adapter to use."""


class Verse(Rival):
    """`verse serve`: the adapter is the model."""

    def names(self, adapter: str | None) -> dict[str, str]:
        """The adapter's name, or `base`."""
        return {"model": adapter or "base"}


class MlxLm(Rival):
    """`mlx_lm.server`: the model is a path, the adapter another."""

    def names(self, adapter: str | None) -> dict[str, str]:
        """Two paths."""
        named = {"adapters": str(ROOT / "adapters" / adapter)} if adapter else {}
        return {"model": str(self.model), **named}


async def throughput(rival: Rival, num_clients: int, seconds: float) -> float:
    """Completion tokens per second of `num_clients` clients in a closed loop."""
    themes = itertools.cycle(THEMES)
    deadline = time.perf_counter() + seconds
    tokens = 0

    async def client(http: httpx.AsyncClient) -> None:
        nonlocal tokens
        while time.perf_counter() < deadline:
            try:
                answer = await http.post("/v1/chat/completions", json=rival.body(next(themes)))
            except httpx.TransportError:  # mlx_lm.server resets connections when 32 come at once
                continue
            answer.raise_for_status()
            tokens += answer.json()["usage"]["completion_tokens"]

    limits = httpx.Limits(max_connections=num_clients)
    start = time.perf_counter()
    async with httpx.AsyncClient(base_url=rival.base_url, timeout=300, limits=limits) as http:
        await asyncio.gather(*(client(http) for _ in range(num_clients)))
    return tokens / (time.perf_counter() - start)


def first_token_of_a_new_folder(base_url: str, adapters: Path) -> float:
    """Seconds from an adapter folder's appearance to the first token written with it."""
    staged = adapters.parent / "staged"
    shutil.copytree(ROOT / "adapters" / "xuzhimo", staged)
    # Other content than any shipped adapter, so nothing of it can be resident.
    (staged / "prompt.json").write_text(json.dumps({"format": "chat", "system": SYSTEM + "。"}))
    name = f"fresh{time.time_ns()}"
    body = {
        "model": name,
        "stream": True,
        "max_tokens": 4,
        "messages": [{"role": "user", "content": "河"}],
    }
    with httpx.Client(base_url=base_url, timeout=60) as http:
        http.get("/health")
        start = time.perf_counter()
        staged.rename(adapters / name)
        with http.stream("POST", "/v1/chat/completions", json=body) as answer:
            answer.raise_for_status()
            for line in answer.iter_lines():
                if '"content":"' in line and '"content":""' not in line:
                    break
        return time.perf_counter() - start


@contextmanager
def served(command: list[str], port: int, ready: str) -> Iterator[str]:
    """Run a server until the block ends; yields its base URL."""
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    base_url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            try:
                if httpx.get(base_url + ready, timeout=2).status_code == 200:
                    break
            except httpx.TransportError:
                time.sleep(0.1)
        else:
            raise SystemExit(f"The server did not start: {' '.join(command)}")
        yield base_url
    finally:
        process.terminate()
        process.wait(30)


def free_port() -> int:
    """A port nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def float32_copy(folder: Path) -> Path:
    """The shipped base with every weight as float32."""
    shutil.copytree(SHIPPED_MODEL, folder)
    weights = load_file(folder / "model.safetensors")
    save_file(
        {name: array.astype(np.float32) for name, array in weights.items()},
        folder / "model.safetensors",
        metadata={"format": "mlx"},
    )
    return folder


def verse_command(port: int, model: Path, adapters: Path) -> list[str]:
    """`verse serve` on the embedded base."""
    verse = Path(sys.executable).with_name("verse")
    options = ["--model", str(model), "--adapters", str(adapters), "--port", str(port)]
    return [str(verse), "serve", *options]


def mlx_lm_command(port: int, model: Path) -> list[str]:
    """`mlx_lm.server` with as many concurrent rows as Verse has."""
    options = ["--model", str(model), "--port", str(port)]
    options += ["--decode-concurrency", "32", "--prompt-concurrency", "32"]
    return [sys.executable, "-c", MLX_LM_SERVER, *options]


def measure(seconds: float, rounds: int) -> dict[str, Any]:
    """All cells, `rounds` times."""
    with tempfile.TemporaryDirectory() as folder:
        adapters = Path(folder) / "adapters"
        shutil.copytree(ROOT / "adapters", adapters)
        model = float32_copy(Path(folder) / "verse-tiny")
        ports = free_port(), free_port()
        with (
            served(verse_command(ports[0], model, adapters), ports[0], "/health") as verse,
            served(mlx_lm_command(ports[1], model), ports[1], "/health") as mlx_lm,
        ):
            rivals = (
                MlxLm("mlx_lm.server, base", mlx_lm, model, (None,)),
                Verse("Verse, base", verse, model, (None,)),
                MlxLm("mlx_lm.server, one adapter", mlx_lm, model, ("xuzhimo",)),
                Verse("Verse, one adapter", verse, model, ("xuzhimo",)),
                MlxLm("mlx_lm.server, seven in turn", mlx_lm, model, ADAPTERS),
                Verse("Verse, seven in turn", verse, model, ADAPTERS),
            )
            cells = run_rounds(rivals, seconds, rounds)
            fresh = [first_token_of_a_new_folder(verse, adapters) for _ in range(5)]
    return {"tokens_per_second": cells, "fresh_folder_first_token_seconds": fresh}


def run_rounds(
    rivals: tuple[Rival, ...], seconds: float, rounds: int
) -> dict[str, dict[int, list[float]]]:
    """Visit every cell once per round, after a warm-up of each server and adapter."""
    for rival in rivals:
        asyncio.run(throughput(rival, 8, 1.0))
    cells: dict[str, dict[int, list[float]]] = {
        r.name: {n: [] for n in CONCURRENCY} for r in rivals
    }
    for number in range(rounds):
        for num_clients in CONCURRENCY:
            for rival in rivals:
                rate = asyncio.run(throughput(rival, num_clients, seconds))
                cells[rival.name][num_clients].append(rate)
                print(f"round {number + 1}  {num_clients:2d}  {rival.name:30s} {rate:7.0f}")
    return cells


def report(result: dict[str, Any]) -> str:
    """Medians as a Markdown table, and the ratios the project aims at."""
    cells = result["tokens_per_second"]
    median = {
        name: {n: statistics.median(rates) for n, rates in row.items()}
        for name, row in cells.items()
    }
    lines = ["| tokens/s | " + " | ".join(map(str, CONCURRENCY)) + " |", "|---" * 5 + "|"]
    for name, row in median.items():
        lines.append(f"| {name} | " + " | ".join(f"{row[n]:.0f}" for n in CONCURRENCY) + " |")
    one, seven = (median[f"Verse, {name}"][16] for name in ("one adapter", "seven in turn"))
    other = {
        name: median[f"mlx_lm.server, {name}"][16] for name in ("one adapter", "seven in turn")
    }
    fresh = statistics.median(result["fresh_folder_first_token_seconds"])
    lines += [
        "",
        f"- one adapter at 16: {one / other['one adapter']:.2f} x mlx_lm.server",
        f"- seven in turn at 16: {seven / one:.2f} of one adapter, "
        f"{seven / other['seven in turn']:.1f} x mlx_lm.server",
        f"- first token of a folder that has just appeared: {fresh:.2f} s",
    ]
    return "\n".join(lines)


def main() -> None:
    """Measure, print the table, and keep the raw numbers if asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=8.0, help="length of one measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, help="write the raw numbers to this JSON file")
    arguments = parser.parse_args()
    result = measure(arguments.seconds, arguments.rounds)
    result["machine"] = (
        f"{platform.system()} {platform.machine()}, Python {platform.python_version()}"
    )
    print("\n" + report(result))
    if arguments.output:
        arguments.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
