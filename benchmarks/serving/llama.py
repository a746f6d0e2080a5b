"""Verse beside llama.cpp's server: one real model, each in the form that it serves best.

    uv run python -m benchmarks.serving.llama --model QWEN --llama-server PATH \
        --gguf q8=q8_0.gguf --gguf q4=q4_k_m.gguf [--rounds 3] [--output FILE] \
        [--server "now=.venv/bin/verse serve"] [--before OLD/.venv/bin/verse]

In every round the servers are started in turn and all stay, idle but for the one that is asked, so
that what is compared lies seconds apart: a machine that others share changes its speed within
minutes. A line is measured in turns, all servers in each of them, back and forth (ABBA), before the
next line:

    start           from its start to the end of a first answer, the others idle
    base @1         completion tokens per second over HTTP, prefill counted, greedy, a theme never
                    seen; four turns of one answer, exactly --tokens long
    first token     one client, a theme never seen behind a system message that is known; five turns
    known prompt    the same of a prompt that the server has answered before, whole
    base @N         N streams, one answer for each
    16 adapters     the same at 16 streams, each of another adapter, asked for in turn
    peak            the most memory that the process held

The adapters are of rank 8 on the last 8 layers, small noise for weights; llama-server gets the same
ones in its own format and finds them by `lora` in each request. Those that it was started with slow
it down even where nobody asks for them, so the line of adapters has one of its own, whose start is
not told; the peak is that of the larger. A --gguf of the model in 8 bits is made by
`llama-quantize MODEL-bf16.gguf q8_0.gguf Q8_0`. An older build (--before) runs base @16 alone.

Shown are medians of the rounds, of each the median of its turns, and below them what Verse has to
the first two --gguf: ratios turn by turn, which drift less than what they are made of. About
eight minutes a round of four servers for a model of 0.5 B on two cores; --only takes some and adds
a round of them to the file that is there:

    python -m benchmarks.serving.llama ... --rounds 1 --output FILE --only q8,int8
"""

import argparse
import asyncio
import json
import os
import shlex
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from itertools import count, cycle, islice, product
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from gguf import GGUFWriter
from safetensors.numpy import load_file

from benchmarks.client import STREAMED, ask, ask_all
from benchmarks.parties import (
    THEMES,
    Server,
    add_model_option,
    available_bytes,
    llama_server,
    machine,
    model_folder,
    numbers,
    peak_bytes,
    served,
    verse_command,
)
from benchmarks.serving.bench import NUM_MIXED, Request, verse_body, write_adapters
from benchmarks.serving.table import in_turn, markdown

_START, _PEAK = "start, s", "peak, MB"
_AT_BEFORE = 16
_FIRST_TOKENS = 5
_SHARE_HELD = 1.6
"""What a server holds at most, as a share of the model's files: measured up to 1.54."""
_GGUF_NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}

Body = Callable[[Request, int], dict[str, Any]]
Figures = dict[str, dict[str, list[float]]]
"""Of one round: server -> line -> what each turn came to."""


@dataclass(frozen=True)
class Line:
    """What is measured in the same way of all servers, several times."""

    name: str
    turns: int
    streams: int
    """One request for each."""
    tokens: int
    models: Sequence[str | None] = (None,)
    known: bool = False
    """Whether all turns ask the same, after one more that does not count."""

    @property
    def mixed(self) -> bool:
        """Whether adapters are asked for."""
        return any(self.models)

    def plan(self, themes: Iterator[str]) -> list[list[Request]]:
        """What each turn asks of every server, a request for each stream."""
        turns = [
            [Request(next(themes), model) for model in islice(cycle(self.models), self.streams)]
            for _ in range(1 if self.known else self.turns)
        ]
        return turns * (1 + self.turns) if self.known else turns


@dataclass(frozen=True)
class Party:
    """One server under test; several of one name share a column."""

    name: str
    start: Callable[[], AbstractContextManager[Server]]
    body: Body
    takes: Callable[[Line], bool] = lambda _: True
    """Whether it takes part in a line."""


def lines(streams: Sequence[int], tokens: int) -> list[Line]:
    """In the order of measuring: adapters last, for llama.cpp forgets prompts where they change."""
    alone = [
        Line("base @1", 4, 1, tokens),
        Line("first token, ms", _FIRST_TOKENS, 1, 4),
        Line("known prompt, ms", _FIRST_TOKENS, 1, 4, known=True),
    ]
    many = [Line(f"base @{n}", 1, n, tokens) for n in streams if n > 1]
    poets = [f"poet{n:04d}" for n in range(NUM_MIXED)]
    mixed = Line(f"{NUM_MIXED} adapters @{NUM_MIXED}", 1, NUM_MIXED, tokens, poets)
    return [*(alone if 1 in streams else alone[1:]), *many, mixed]


def new_themes(number: int) -> Iterator[str]:
    """None twice in a round: single words first, others in every round, and then pairs of them."""
    start = 37 * number % len(THEMES)
    yield from THEMES[start:] + THEMES[:start]
    for distance in range(1, len(THEMES)):
        for n, theme in enumerate(THEMES):
            yield f"{theme}和{THEMES[(n + distance) % len(THEMES)]}"


def write_gguf_adapter(folder: Path, file: Path) -> Path:
    """Write an adapter of mlx-lm as llama.cpp reads it: (rank, in) and (out, rank) a module."""
    config = json.loads((folder / "adapter_config.json").read_text("utf-8"))["lora_parameters"]
    writer = GGUFWriter(file, "qwen2")
    writer.add_string("general.type", "adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", config["scale"] * config["rank"])
    for name, array in load_file(folder / "adapters.safetensors").items():
        _, _, layer, *module, side = name.split(".")
        tensor = f"blk.{layer}.{_GGUF_NAMES['.'.join(module)]}.weight.{side}"
        writer.add_tensor(tensor, np.ascontiguousarray(array.T))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def parties(options: argparse.Namespace, folder: Path) -> list[Party]:
    """All servers, with the files they need."""
    model = model_folder(options.model)
    names = write_adapters(folder / "adapters", NUM_MIXED, model)
    loras = [write_gguf_adapter(folder / "adapters" / n, folder / f"{n}.gguf") for n in names]
    numbers = {name: number for number, name in enumerate(names)}
    slots = max(NUM_MIXED, *options.streams)

    def verse(name: str, command: str) -> Party:
        flags = ["--model", str(model), "--adapters", str(folder / "adapters")]
        return Party(
            name,
            lambda: served([*shlex.split(command), *flags]),
            lambda request, tokens: verse_body(request, tokens, ignore_eos=True, **STREAMED),
        )

    def llama(name: str, gguf: str) -> list[Party]:
        def body(request: Request, tokens: int) -> dict[str, Any]:
            lora = [{"id": numbers[request.model], "scale": 1.0}] if request.model else []
            return verse_body(request, tokens, ignore_eos=True, lora=lora, **STREAMED)

        def start(of: Sequence[Path]) -> AbstractContextManager[Server]:
            binary = Path(options.llama_server)
            return llama_server(binary, Path(gguf), of, slots=slots, threads=options.threads)

        return [
            Party(name, lambda: start(()), body, lambda line: not line.mixed),
            Party(name, lambda: start(loras), body, lambda line: line.mixed),
        ]

    ours = options.server or [("Verse", shlex.join(verse_command("serve")))]
    found = [party for name, file in options.gguf for party in llama(name, file)]
    found += [verse(name, command) for name, command in ours]
    if options.before:
        before = verse("before", shlex.join([options.before, "serve"]))
        found.append(replace(before, takes=lambda line: line.name == f"base @{_AT_BEFORE}"))
    if unknown := set(options.only) - {party.name for party in found}:
        names = ", ".join(dict.fromkeys(party.name for party in found))
        raise SystemExit(f"There is no server {min(unknown)!r}; there are {names}.")
    return [party for party in found if not options.only or party.name in options.only]


def measure(
    found: Sequence[Party],
    of: Sequence[Line],
    number: int,
    figures: Figures,
    keep: Callable[[str], None],
) -> None:
    """One round of all servers, which all live until its end.

    Args:
        found: The servers.
        of: What is measured.
        number: Of the round; odd ones begin with the last server.
        figures: What is found is added to it, line by line.
        keep: Called after each line with its name.
    """
    themes, turns = new_themes(number), count(number)
    plans = [(line, line.plan(themes)) for line in of]
    warm = list(islice(themes, max(line.streams for line in of)))
    with ExitStack() as stack:
        servers, seconds = dict[Party, Server](), dict[Party, float]()
        for party in in_turn(found, next(turns)):
            servers[party] = stack.enter_context(party.start())
            seconds[party] = _first_answer(servers[party], party)
            _warm(servers[party], party, warm)
        for party in found:
            figures[party.name].setdefault(_START, [seconds[party]])
        keep(_START)
        for line, plan in plans:
            asked = [party for party in found if party.takes(line)]
            for turn, requests in enumerate(plan, start=-line.known):
                for party in in_turn(asked, next(turns)):
                    figure = _turn(servers[party], party, line, requests)
                    if turn >= 0:
                        figures[party.name].setdefault(line.name, []).append(figure)
            keep(line.name)
        for party, server in servers.items():
            peak = figures[party.name].setdefault(_PEAK, [0.0])
            peak[0] = max(peak[0], peak_bytes(server.pid) / 1e6)
        keep(_PEAK)


def _first_answer(server: Server, party: Party) -> float:
    begun = time.perf_counter()
    asyncio.run(ask(server.port, party.body(Request("河", None), 1)))
    return server.start_seconds + time.perf_counter() - begun


def _warm(server: Server, party: Party, themes: Sequence[str]) -> None:
    """Let every slot know the system message: llama-server may take any for what comes next."""
    bodies = [party.body(Request(theme, None), 4) for theme in themes]
    asyncio.run(ask_all(server.port, bodies, len(bodies)))


def _turn(server: Server, party: Party, line: Line, requests: Sequence[Request]) -> float:
    start = time.perf_counter()
    bodies = [party.body(request, line.tokens) for request in requests]
    answers = asyncio.run(ask_all(server.port, bodies, line.streams))
    seconds = time.perf_counter() - start
    written, due = sum(answer.completion_tokens for answer in answers), len(bodies) * line.tokens
    if written != due:
        raise SystemExit(f"{party.name} wrote {written} instead of {due} tokens.")
    return 1e3 * answers[0].first_text_seconds if line.name.endswith("ms") else written / seconds


def report(result: dict[str, Any]) -> list[str]:
    """Medians of the rounds, a column a server, and below what Verse has to others."""
    rounds: list[Figures] = result["rounds"]
    names = list(dict.fromkeys(name for of in rounds for name in of))
    keys = list(dict.fromkeys(key for of in rounds for found in of.values() for key in found))
    keys.sort(key=_PEAK.__eq__)  # of a round that only some servers took part in, it came earlier
    rows = [
        [key, *(_cell(_figures(rounds, name, key), _digits(key)) for name in names)] for key in keys
    ]
    ours = [name for name in names if name not in result["rivals"]]
    pairs = list(product(ours, result["rivals"][:2]))
    ratios = [[key, *(_cell(_ratios(rounds, *pair, key), 2) for pair in pairs)] for key in keys]
    below = ["", *markdown(["ratio", *map(" / ".join, pairs)], ratios)] if pairs else []
    return [*markdown([f"{result['tokens']} tokens", *names], rows), *below]


def _figures(rounds: Sequence[Figures], name: str, key: str) -> list[float]:
    return [median(of[name][key]) for of in rounds if key in of.get(name, {})]


def _ratios(rounds: Sequence[Figures], ours: str, other: str, key: str) -> list[float]:
    """Of every round that has both, so that what is compared lies close together."""
    both = [(of.get(ours, {}).get(key), of.get(other, {}).get(key)) for of in rounds]
    return [median(a / b for a, b in zip(*pair, strict=False)) for pair in both if all(pair)]


def _cell(values: Sequence[float], digits: int) -> str:
    return f"{median(values):.{digits}f}" if values else ""


def _digits(key: str) -> int:
    return 0 if key.endswith(("ms", "MB")) else 1


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print the tables, and keep the raw numbers if asked."""
    options = _parser().parse_args(arguments)
    result = _begun(options)
    rounds: list[Figures] = result["rounds"]
    with TemporaryDirectory(prefix="verse-benchmark-") as name:
        found = parties(options, Path(name))
        before = {_AT_BEFORE} if any(party.name == "before" for party in found) else set[int]()
        of = lines(sorted({*options.streams} | before), options.tokens)
        print(memory_warning(len(found), model_folder(options.model), available_bytes()), end="")
        for _ in range(options.rounds):
            rounds.append({party.name: {} for party in found})

            def keep(line: str) -> None:
                print(f"round {len(rounds)}  {progress(rounds[-1], line)}", flush=True)
                if options.output:
                    options.output.write_text(json.dumps(result, indent=1) + "\n", "utf-8")

            measure(found, of, len(rounds) - 1, rounds[-1], keep)
    print("\n" + "\n".join(report(result)))


def progress(figures: Figures, line: str) -> str:
    """A line of a round that has just been measured."""
    found = {name: _cell(of[line], _digits(line)) for name, of in figures.items() if line in of}
    return f"{line}: " + ", ".join(f"{name} {figure}" for name, figure in found.items())


def memory_warning(num_servers: int, model: Path, available: int | None) -> str:
    """A sentence if so many servers of a model may not fit beside each other."""
    held = _SHARE_HELD * sum(file.stat().st_size for file in model.glob("*.safetensors"))
    if available is None or num_servers * held <= available:
        return ""
    return (
        f"{num_servers} servers may hold {num_servers * held / 1e9:.1f} GB together and "
        f"{available / 1e9:.1f} GB are free: --only takes fewer of them at a time.\n"
    )


def _begun(options: argparse.Namespace) -> dict[str, Any]:
    """What to add to: with --only, the rounds that the file has."""
    rivals = [name for name, _ in options.gguf]
    result: dict[str, Any] = {"machine": machine(), "tokens": options.tokens, "rounds": []}
    if not (options.only and options.output and options.output.exists()):
        return {**result, "rivals": rivals}
    known: dict[str, Any] = json.loads(options.output.read_text("utf-8"))
    of = [(found["machine"], found["tokens"], type(found["rounds"])) for found in (known, result)]
    if of[0] != of[1]:
        raise SystemExit(
            f"{options.output} is of another machine, other answers or an older benchmark; "
            "move it away."
        )
    return {**known, "rivals": list(dict.fromkeys([*known["rivals"], *rivals]))}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.serving.llama",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    add = parser.add_argument
    add_model_option(parser)
    environment = os.environ.get("LLAMA_SERVER")
    add("--llama-server", default=environment, help="its binary (LLAMA_SERVER)")
    add("--gguf", action="append", type=_named, default=[], help="NAME=FILE; repeat it")
    add("--server", action="append", type=_named, help="NAME=COMMAND of a Verse; repeat it")
    add("--before", help="the verse command of an older build")
    add("--only", type=_texts, default=(), help="servers by name: q8,before")
    add("--threads", type=int, default=os.cpu_count(), help="of llama-server (all cores)")
    add("--streams", type=numbers, default=(1, 8, 16, 32), help="1,8,16,32")
    add("--rounds", type=int, default=3, help="medians are over so many (3)")
    add("--tokens", type=int, default=64, help="of every answer (64)")
    add("--output", type=Path, help="write the raw numbers to this JSON file")
    return parser


def _named(text: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not separator:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return name, value


def _texts(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


if __name__ == "__main__":
    main()
