"""Poems per hour: one process per poem, mlx_lm.server, and `verse generate` on our server.

    uv run python -m benchmarks.batch [--poems 300] [--processes 5] [--output FILE]
    uv run python -m benchmarks.batch --model QWEN --adapters FOLDER --poems 60 --processes 3 \
        --served 18

300 poems, 100 themes by each of three adapters, on a float32 copy of the base; every way but one
loads OpenBLAS before mlx; all sample at 0.7 and top_p 0.9, end poems where the model ends them, and
write at most 100 tokens, the original project's limit. Adapters are the first of --adapters, or the
shipped ones, which fit verse-tiny; another base gets adapters of noise, whose poems end nowhere.

one process per poem    what the original project does: `mlx_lm.generate` for each poem, which loads
                        the base and the adapter. Some are measured and scaled.
... as installed        the same without our help: the base as it is, and no OpenBLAS, which mlx's
                        wheels for Linux lack
mlx_lm.server           32 requests at a time; the adapter is named in `adapters`, and the requests
                        come in the plan's order, theme by theme
mlx_lm.server, sorted   the same, adapter by adapter, so that the base is reloaded twice only
                        (of both, the first --served poems are measured and scaled)
verse generate          the command against `verse serve`
verse generate --batch  the same, the plan given away as one batch, against `verse serve --jobs`

    uv run python -m benchmarks.batch --ours 3

compares the last two alone, in turn, three times.

    uv run python -m benchmarks.batch ... --only generate --output FILE
    uv run python -m benchmarks.batch ... --only process,served --output FILE

measures piece by piece, of PIECES; what an earlier piece has left in the file is in the table too.
mlx_lm leaves one core free, as Verse does with a small base; OPENBLAS_NUM_THREADS=2 beside `--only
process,served` gives it both for a large one.

Starting up and writing are told apart. Start-up is what the first poem costs and the next ones do
not: from the start of a server until it answers; of `verse generate` also what the command takes
when all its poems are there already; of a process per poem, where every poem pays it, all that
mlx_lm.generate does not itself count as prompt and generation. Nothing is warmed up.
"""

import argparse
import asyncio
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.client import ask_all
from benchmarks.parties import (
    ROOT,
    THEMES,
    Server,
    add_model_option,
    float32_copy,
    machine,
    mlx_lm_server,
    model_folder,
    verse_command,
    verse_server,
    with_openblas,
)
from benchmarks.serving.bench import write_adapters
from verse.atomic_file import replace_file
from verse.prompt import POEM_SYSTEM

SHIPPED = ("xuzhimo", "hushi", "wenyiduo")
CONCURRENCY = 32
MAX_TOKENS = 100
SAMPLING = {"temperature": 0.7, "top_p": 0.9}
HOUR_SECONDS = 3600
PIECES = {
    "generate": "verse generate",
    "batch": "verse generate --batch",
    "process": "one process per poem",
    "installed": "one process per poem, as installed",
    "served": "mlx_lm.server",
    "sorted": "mlx_lm.server, sorted",
}
"""What `--only` calls each way."""
_FIGURE = r"{}: (\d+) tokens, ([\d.]+) tokens-per-sec"


@dataclass
class Way:
    """What one way took for all the poems."""

    poems: int
    start_seconds: float
    write_seconds: float
    tokens: int
    """Of the poems, prompts not counted."""

    @property
    def all_counted(self) -> float:
        """Poems per hour, start-up included."""
        return self.poems * HOUR_SECONDS / (self.start_seconds + self.write_seconds)

    @property
    def once_running(self) -> float:
        """Poems per hour if starting up took no time."""
        return self.poems * HOUR_SECONDS / self.write_seconds


@dataclass
class Work:
    """What every way has to do."""

    given: Path
    """The base as it is."""
    model: Path
    """A float32 copy."""
    adapters: Path
    names: tuple[str, ...]
    """Of the adapters in that folder that write."""
    poems: list[tuple[str, str]]
    """(theme, adapter) of every poem, theme by theme."""

    def scaled(self, start: float, writing: float, tokens: int, measured: int) -> Way:
        """All poems, where only some were measured."""
        scale = len(self.poems) / measured
        return Way(len(self.poems), start, writing * scale, round(tokens * scale))


def one_process_per_poem(work: Work, count: int, *, as_installed: bool = False) -> Way:
    """A process for each of the first poems, scaled to all."""
    model = work.given if as_installed else work.model
    poems = work.poems[:count]
    total = writing = 0.0
    tokens = 0
    for theme, adapter in poems:
        options = ["--model", str(model), "--adapter-path", str(work.adapters / adapter)]
        options += ["--system-prompt", POEM_SYSTEM, "--prompt", theme]
        options += ["--max-tokens", str(MAX_TOKENS)]
        options += ["--temp", str(SAMPLING["temperature"]), "--top-p", str(SAMPLING["top_p"])]
        program = "mlx_lm.generate"
        command = [sys.executable, "-m", program] if as_installed else with_openblas(program)
        start = time.perf_counter()
        told = subprocess.run(
            [*command, *options], check=True, capture_output=True, text=True, cwd=ROOT
        ).stdout
        total += time.perf_counter() - start
        for part in ("Prompt", "Generation"):
            ((count, rate),) = re.findall(_FIGURE.format(part), told)
            writing += int(count) / float(rate)
        tokens += int(count)
    starts = (total - writing) * len(work.poems) / len(poems)
    return work.scaled(starts, writing, tokens, len(poems))


def over_mlx_lm_server(server: Server, work: Work, poems: list[tuple[str, str]]) -> Way:
    """Some poems, many requests at a time, scaled to all."""

    def body(theme: str, adapter: str) -> dict[str, Any]:
        turns = [{"role": "system", "content": POEM_SYSTEM}, {"role": "user", "content": theme}]
        named = {"model": str(work.model), "adapters": str(work.adapters / adapter)}
        return {"messages": turns, **named, "max_tokens": MAX_TOKENS, **SAMPLING}

    start = time.perf_counter()
    bodies = [body(theme, adapter) for theme, adapter in poems]
    answers = asyncio.run(ask_all(server.port, bodies, CONCURRENCY))
    seconds = time.perf_counter() - start
    tokens = sum(answer.completion_tokens for answer in answers)
    return work.scaled(server.start_seconds, seconds, tokens, len(answers))


def verse_generate(server: Server, folder: Path, work: Work, *more: str) -> Way:
    """The command from its start to its end, and once more with nothing left to do."""
    folder = Path(tempfile.mkdtemp(dir=folder))
    themes, output = folder / "themes.txt", folder / "poems.jsonl"
    themes.write_text("\n".join(dict.fromkeys(theme for theme, _ in work.poems)), "utf-8")
    options = ["--themes", str(themes), "--adapters", ",".join(work.names), "-o", str(output)]
    options += ["--base-url", f"{server.base_url}/v1", "--max-tokens", str(MAX_TOKENS)]
    options += ["--temperature", str(SAMPLING["temperature"]), "--top-p", str(SAMPLING["top_p"])]
    options += ["--concurrency", str(CONCURRENCY), *more]
    seconds = list[float]()
    for _ in range(2):
        start = time.perf_counter()
        command = verse_command("generate", *options)
        subprocess.run(command, check=True, capture_output=True, cwd=ROOT)
        seconds.append(time.perf_counter() - start)
    written = [json.loads(line) for line in output.read_text("utf-8").splitlines()]
    if len(written) != len(work.poems):
        raise SystemExit(f"verse generate wrote {len(written)} of {len(work.poems)} poems.")
    whole, nothing_to_do = seconds
    start_seconds = server.start_seconds + nothing_to_do
    tokens = sum(record["completion_tokens"] for record in written)
    return Way(len(written), start_seconds, whole - nothing_to_do, tokens)


def alone(folder: Path, work: Work) -> Way:
    """`verse generate`, on a server of its own."""
    with verse_server(work.model, work.adapters) as server:
        return verse_generate(server, folder, work)


def batched(folder: Path, work: Work) -> Way:
    """The plan as one batch, on a server of its own."""
    state = tempfile.mkdtemp(dir=folder)
    with verse_server(work.model, work.adapters, "--jobs", "--state", state) as server:
        return verse_generate(server, folder, work, "--batch")


def without_own_sampling(model: Path) -> Path:
    """Leave the base only its tokens: Verse takes what it recommends, such as top_k; mlx_lm not."""
    file = model / "generation_config.json"
    if file.exists():
        settings: dict[str, object] = json.loads(file.read_text("utf-8"))
        tokens = {name: value for name, value in settings.items() if name.endswith("_token_id")}
        file.write_text(json.dumps(tokens), "utf-8")
    return model


def prepare(folder: Path, options: argparse.Namespace) -> Work:
    """A float32 copy of the base, adapters that fit it, and the plan."""
    model = without_own_sampling(float32_copy(folder / Path(options.model).name, options.model))
    adapters, names = options.adapters or ROOT / "adapters", SHIPPED
    if options.adapters:
        found = sorted(file.parent.name for file in adapters.glob("*/adapters.safetensors"))
        names = tuple(found[: len(SHIPPED)])
    elif model.name != "verse-tiny":
        adapters = folder / "adapters"
        names = write_adapters(adapters, len(SHIPPED), model)
    themes = THEMES[: options.poems // len(names)]
    given = model_folder(options.model)
    return Work(
        given, model, adapters, names, [(theme, name) for theme in themes for name in names]
    )


def served(work: Work, poems: list[tuple[str, str]]) -> Way:
    """Over an mlx_lm.server of its own."""
    with mlx_lm_server(work.model) as server:
        return over_mlx_lm_server(server, work, poems)


def measure(options: argparse.Namespace) -> dict[str, Way]:
    """Each way alone on the machine."""
    ways = earlier(options.output) if options.only else {}

    def note(name: str, way: Way) -> None:
        ways[name] = way
        keep(options.output, ways)
        print(f"{name:24s} {way}", flush=True)

    with tempfile.TemporaryDirectory(prefix="verse-benchmark-") as name:
        folder = Path(name)
        work = prepare(folder, options)
        some = work.poems[: options.served]
        by_adapter = sorted(some, key=lambda poem: work.names.index(poem[1]))
        ways_of: dict[str, Callable[[], Way]] = {
            "generate": lambda: alone(folder, work),
            "batch": lambda: batched(folder, work),
            "process": lambda: one_process_per_poem(work, options.processes),
            "installed": lambda: one_process_per_poem(work, options.processes, as_installed=True),
            "served": lambda: served(work, some),
            "sorted": lambda: served(work, by_adapter),
        }
        for turn in range(options.ours or 0):
            for piece in ("generate", "batch"):
                note(f"{PIECES[piece]} {turn + 1}", ways_of[piece]())
        for piece in () if options.ours else options.only or PIECES:
            note(PIECES[piece], ways_of[piece]())
    return ways


def keep(file: Path | None, ways: dict[str, Way]) -> None:
    """Write what was measured so far."""
    if file is not None:
        raw = {"machine": machine(), "ways": {name: asdict(way) for name, way in ways.items()}}
        replace_file(file, [json.dumps(raw, indent=1).encode(), b"\n"])


def earlier(file: Path | None) -> dict[str, Way]:
    """What another piece of the same measurement has left."""
    if file is None or not file.exists():
        return {}
    return {name: Way(**way) for name, way in json.loads(file.read_text("utf-8"))["ways"].items()}


def pieces(text: str) -> list[str]:
    """What `--only` names."""
    found = text.split(",")
    if unknown := set(found) - set(PIECES):
        raise argparse.ArgumentTypeError(f"{unknown.pop()!r} is none of {', '.join(PIECES)}")
    return found


def report(ways: dict[str, Way]) -> str:
    """A Markdown table."""
    ours = ways.get(PIECES["generate"]) or next(iter(ways.values()))
    lines = [
        "| | start-up, s | writing, s | tokens a poem | poems/h, all counted | verse generate is "
        "faster by | poems/h, once running | verse generate is faster by |",
        "|---" * 8 + "|",
    ]
    for name, way in ways.items():
        whole, running = way.all_counted, way.once_running
        lines.append(
            f"| {name} | {way.start_seconds:.1f} | {way.write_seconds:.1f} "
            f"| {way.tokens / way.poems:.0f} "
            f"| {whole:.0f} | {ours.all_counted / whole:.1f} "
            f"| {running:.0f} | {ours.once_running / running:.1f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.batch",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("--poems", type=int, default=300, help="three times a number up to 100")
    parser.add_argument("--processes", type=int, default=5, help="measured and scaled")
    parser.add_argument("--served", type=int, help="of mlx_lm.server, measured and scaled (all)")
    parser.add_argument("--only", type=pieces, help=f"some of {','.join(PIECES)}; the rest is kept")
    parser.add_argument("--ours", type=int, help="rounds of verse generate's own two ways alone")
    add_model_option(parser)
    parser.add_argument("--adapters", type=Path, help="a folder of adapters that fit the base")
    parser.add_argument("--output", type=Path, help="write the raw numbers to this JSON file")
    arguments = parser.parse_args()
    print("about 4 minutes for 300 poems of verse-tiny on two cores", flush=True)
    ways = measure(arguments)
    print("\n" + report(ways))


if __name__ == "__main__":
    main()
