"""Poems per hour: one process per poem, mlx_lm.server, and `verse generate` on our server.

    uv run python benchmarks/batch.py [--poems 300] [--processes 5] [--output FILE]

300 poems, 100 themes by each of three adapters, on a float32 copy of verse-tiny; every way loads
OpenBLAS before mlx, samples at the base's own settings, and writes at most 100 tokens, the original
project's limit.

one process per poem    what the original project does: `mlx_lm.generate` for each poem, which loads
                        the base and the adapter. Some are measured and scaled.
mlx_lm.server           a client with 32 requests at a time; the adapter is named in `adapters`, and
                        the requests come in the plan's order, theme by theme
mlx_lm.server, sorted   the same, adapter by adapter, so that the base is reloaded twice only
verse generate          the command, from its start to its end, against `verse serve`
"""

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
from serving import (
    ROOT,
    SYSTEM,
    float32_copy,
    free_port,
    mlx_lm_command,
    served,
    verse_command,
)

ADAPTERS = ("xuzhimo", "hushi", "wenyiduo")
CONCURRENCY = 32
MAX_TOKENS = 100
SAMPLING = {"temperature": 0.7, "top_p": 0.9}
HOUR_SECONDS = 3600

MLX_LM_GENERATE = """
from verse import openblas
openblas.preload(spare_cores=1)
from mlx_lm.generate import main
main()
"""


def requests(num_poems: int) -> list[tuple[str, str]]:
    """(theme, adapter) of every poem, theme by theme."""
    themes = (ROOT / "data" / "themes.txt").read_text("utf-8").split("\n")
    num_themes = num_poems // len(ADAPTERS)
    return [(theme, adapter) for theme in themes[:num_themes] for adapter in ADAPTERS]


def one_process_per_poem(model: Path, poems: list[tuple[str, str]]) -> float:
    """Seconds for some poems, a process each."""
    start = time.perf_counter()
    for theme, adapter in poems:
        options = ["--model", str(model), "--adapter-path", str(ROOT / "adapters" / adapter)]
        options += ["--system-prompt", SYSTEM, "--prompt", theme, "--max-tokens", str(MAX_TOKENS)]
        options += ["--temp", str(SAMPLING["temperature"]), "--top-p", str(SAMPLING["top_p"])]
        command = [sys.executable, "-c", MLX_LM_GENERATE, *options]
        subprocess.run(command, check=True, capture_output=True, cwd=ROOT)
    return time.perf_counter() - start


def mlx_lm_server(base_url: str, model: Path, poems: list[tuple[str, str]]) -> float:
    """Seconds for all poems, many requests at a time."""

    async def write_all() -> None:
        queue = iter(poems)
        limits = httpx.Limits(max_connections=CONCURRENCY)
        async with httpx.AsyncClient(base_url=base_url, timeout=600, limits=limits) as http:

            async def client() -> None:
                for theme, adapter in queue:
                    await post(http, body(theme, adapter))

            await asyncio.gather(*(client() for _ in range(CONCURRENCY)))

    def body(theme: str, adapter: str) -> dict[str, Any]:
        messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": theme}]
        folder = str(ROOT / "adapters" / adapter)
        named = {"model": str(model), "adapters": folder, "max_tokens": MAX_TOKENS}
        return {"messages": messages, **named, **SAMPLING}

    start = time.perf_counter()
    asyncio.run(write_all())
    return time.perf_counter() - start


async def post(http: httpx.AsyncClient, body: dict[str, Any]) -> None:
    """One poem, however often the server resets the connection when 32 come at once."""
    while True:
        try:
            answer = await http.post("/v1/chat/completions", json=body)
        except httpx.TransportError:
            continue
        answer.raise_for_status()
        return


def verse_generate(base_url: str, folder: Path, poems: list[tuple[str, str]]) -> float:
    """Seconds of the whole command."""
    themes, output = folder / "themes.txt", folder / f"poems{time.time_ns()}.jsonl"
    themes.write_text("\n".join(dict.fromkeys(theme for theme, _ in poems)), "utf-8")
    options = ["--themes", str(themes), "--adapters", ",".join(ADAPTERS), "-o", str(output)]
    options += ["--base-url", f"{base_url}/v1", "--max-tokens", str(MAX_TOKENS)]
    options += ["--temperature", str(SAMPLING["temperature"]), "--top-p", str(SAMPLING["top_p"])]
    command = [str(Path(sys.executable).with_name("verse")), "generate", *options]
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, cwd=ROOT)
    seconds = time.perf_counter() - start
    written = output.read_bytes().count(b"\n")
    if written != len(poems):
        raise SystemExit(f"verse generate wrote {written} poems instead of {len(poems)}.")
    return seconds


def measure(num_poems: int, num_processes: int) -> dict[str, float]:
    """Poems per hour of each way; each server runs alone, warmed up by one poem per adapter."""
    poems = requests(num_poems)
    by_adapter = sorted(poems, key=lambda poem: poem[1])
    rates: dict[str, float] = {}

    def note(name: str, count: int, seconds: float) -> None:
        rates[name] = count * HOUR_SECONDS / seconds
        print(f"{name:24s} {count:4d} poems in {seconds:6.1f} s", flush=True)

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = float32_copy(folder / "verse-tiny")
        some = poems[:num_processes]
        note("one process per poem", len(some), one_process_per_poem(model, some))
        port = free_port()
        with served(mlx_lm_command(port, model), port, "/health") as url:
            mlx_lm_server(url, model, poems[: len(ADAPTERS)])
            note("mlx_lm.server", len(poems), mlx_lm_server(url, model, poems))
            note("mlx_lm.server, sorted", len(poems), mlx_lm_server(url, model, by_adapter))
        port = free_port()
        with served(verse_command(port, model, ROOT / "adapters"), port, "/health") as url:
            verse_generate(url, folder, poems[: len(ADAPTERS)])
            note("verse generate", len(poems), verse_generate(url, folder, poems))
    return rates


def report(rates: dict[str, float]) -> str:
    """A Markdown table."""
    ours = rates["verse generate"]
    rows = [f"| {name} | {rate:.0f} | {ours / rate:.1f} |" for name, rate in rates.items()]
    return "\n".join(["| | poems/h | verse generate is faster by |", "|---|---|---|", *rows])


def main() -> None:
    """Measure, print the table, and keep the raw numbers if asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--poems", type=int, default=300, help="three times a number up to 100")
    parser.add_argument("--processes", type=int, default=5, help="measured and scaled")
    parser.add_argument("--output", type=Path, help="write the raw numbers to this JSON file")
    arguments = parser.parse_args()
    rates = measure(arguments.poems, arguments.processes)
    print("\n" + report(rates))
    if arguments.output:
        arguments.output.write_text(json.dumps({"poems_per_hour": rates}, indent=1) + "\n")


if __name__ == "__main__":
    main()
