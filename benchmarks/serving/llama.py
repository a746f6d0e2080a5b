"""Verse beside llama.cpp's server: one real model, each in the form that it serves best.

    uv run python -m benchmarks.serving.llama --model QWEN --llama-server PATH \
        --gguf q8=q8_0.gguf --gguf q4=q4_k_m.gguf [--rounds 3] [--output FILE] \
        [--server "now=.venv/bin/verse serve"] [--before OLD/.venv/bin/verse]

In every round each server is started, measured and stopped, in turn and alone on the machine:

    start           from its start to the end of a first answer
    base @N         completion tokens per second over HTTP at N streams, prefill counted, greedy,
                    each answer exactly --tokens long
    16 adapters     the same at 16 streams, each of another adapter, asked for in turn
    first token     one client, a theme never seen behind a system message that is known
    peak            the most memory that the process held

The adapters are of rank 8 on the last 8 layers, small noise for weights; llama-server gets the same
ones in its own format and finds them by `lora` in each request. A --gguf of the model in 8 bits is
made by `llama-quantize MODEL-bf16.gguf q8_0.gguf Q8_0`. An older build (--before) runs base @16
alone. About ten minutes a round for a model of 0.5 B on two cores; --only takes some servers, about
two minutes each, and adds what it measures to the file that is there:

    python -m benchmarks.serving.llama ... --rounds 1 --output FILE --only q8
    python -m benchmarks.serving.llama ... --rounds 1 --output FILE --only int8,before
"""

import argparse
import asyncio
import json
import os
import shlex
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from gguf import GGUFWriter
from safetensors.numpy import load_file

from benchmarks.client import STREAMED, ask, ask_all
from benchmarks.parties import (
    Server,
    add_model_option,
    llama_server,
    machine,
    model_folder,
    numbers,
    peak_bytes,
    served,
    verse_command,
)
from benchmarks.serving.bench import NUM_MIXED, Request, requests, verse_body, write_adapters
from benchmarks.serving.table import markdown
from benchmarks.serving.throughput import num_requests

_AT_BEFORE = 16
_FIRST_TOKENS = 5
"""Samples in a round, after one that makes the system message known."""
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


@dataclass(frozen=True)
class Party:
    """One server under test."""

    name: str
    start: Callable[[], AbstractContextManager[Server]]
    body: Body
    streams: tuple[int, ...]
    mixed: bool
    """Whether it is asked for adapters."""


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
    slots = max(options.streams)

    def verse(name: str, command: str, streams: tuple[int, ...], *, mixed: bool) -> Party:
        flags = ["--model", str(model), "--adapters", str(folder / "adapters")]
        return Party(
            name,
            lambda: served([*shlex.split(command), *flags]),
            lambda request, tokens: verse_body(request, tokens, ignore_eos=True, **STREAMED),
            streams,
            mixed,
        )

    def llama(name: str, gguf: str) -> Party:
        def body(request: Request, tokens: int) -> dict[str, Any]:
            lora = [{"id": numbers[request.model], "scale": 1.0}] if request.model else []
            return verse_body(request, tokens, ignore_eos=True, lora=lora, **STREAMED)

        def start() -> AbstractContextManager[Server]:
            binary = Path(options.llama_server)
            return llama_server(binary, Path(gguf), loras, slots=slots, threads=options.threads)

        return Party(name, start, body, options.streams, True)

    ours = options.server or [("Verse", shlex.join(verse_command("serve")))]
    found = [llama(name, file) for name, file in options.gguf]
    found += [verse(name, command, options.streams, mixed=True) for name, command in ours]
    if options.before:
        command = shlex.join([options.before, "serve"])
        found.append(verse("before", command, (_AT_BEFORE,), mixed=False))
    if unknown := set(options.only) - {party.name for party in found}:
        names = ", ".join(party.name for party in found)
        raise SystemExit(f"There is no server {min(unknown)!r}; there are {names}.")
    return [party for party in found if not options.only or party.name in options.only]


def measure(party: Party, tokens: int, number: int) -> dict[str, float]:
    """One round of one server."""
    figures: dict[str, float] = {}
    with party.start() as server:
        begun = time.perf_counter()
        asyncio.run(ask(server.port, party.body(Request("河", None), 1)))
        figures["start, s"] = server.start_seconds + time.perf_counter() - begun
        asyncio.run(ask(server.port, party.body(Request("灯", None), 4)))
        for streams in party.streams:
            count = num_requests(streams) if streams > 1 else 2
            of = requests((None,), count, start=37 * number)
            figures[f"base @{streams}"] = _rate(server, party, of, tokens, streams)
        if party.mixed:
            names = [f"poet{n:04d}" for n in range(NUM_MIXED)]
            of = requests(names, NUM_MIXED, start=53 * number)
            figures["16 adapters @16"] = _rate(server, party, of, tokens, NUM_MIXED)
        firsts = [_first_token(server, party, number, n) for n in range(_FIRST_TOKENS + 1)]
        figures["first token, ms"] = 1e3 * median(firsts[1:])
        figures["peak, MB"] = peak_bytes(server.pid) / 1e6
    return figures


def _rate(server: Server, party: Party, of: Sequence[Request], tokens: int, streams: int) -> float:
    start = time.perf_counter()
    bodies = [party.body(request, tokens) for request in of]
    answers = asyncio.run(ask_all(server.port, bodies, streams))
    seconds = time.perf_counter() - start
    written = sum(answer.completion_tokens for answer in answers)
    if written != len(of) * tokens:
        raise SystemExit(f"{party.name} wrote {written} instead of {len(of) * tokens} tokens.")
    return written / seconds


def _first_token(server: Server, party: Party, number: int, sample: int) -> float:
    (request,) = requests((None,), 1, start=101 + 11 * number + sample)
    return asyncio.run(ask(server.port, party.body(request, 4))).first_text_seconds


def report(result: dict[str, Any]) -> list[str]:
    """Medians of the rounds, a column a server."""
    rounds: dict[str, list[dict[str, float]]] = result["rounds"]
    keys = list(dict.fromkeys(key for of in rounds.values() for key in of[0]))
    rows: list[list[object]] = []
    for key in keys:
        cells = [[r[key] for r in of if key in r] for of in rounds.values()]
        rows.append([key, *(f"{median(c):.{_digits(key)}f}" if c else "" for c in cells)])
    return markdown([f"{result['tokens']} tokens", *rounds], rows)


def _digits(key: str) -> int:
    return 0 if key.endswith(("ms", "MB")) else 1


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print the table, and keep the raw numbers if asked."""
    options = _parser().parse_args(arguments)
    result = _begun(options)
    with TemporaryDirectory(prefix="verse-benchmark-") as name:
        found = parties(options, Path(name))
        for number in range(options.rounds):
            for party in found:
                figures = measure(party, options.tokens, number)
                result["rounds"].setdefault(party.name, []).append(figures)
                shown = ", ".join(f"{key} {value:.1f}" for key, value in figures.items())
                print(f"round {number + 1}  {party.name}: {shown}", flush=True)
                if options.output:
                    options.output.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    print("\n" + "\n".join(report(result)))


def _begun(options: argparse.Namespace) -> dict[str, Any]:
    """What to add to: with --only, what the file has of the others."""
    result: dict[str, Any] = {"machine": machine(), "tokens": options.tokens, "rounds": {}}
    if not (options.only and options.output and options.output.exists()):
        return result
    known: dict[str, Any] = json.loads(options.output.read_text("utf-8"))
    if (known["machine"], known["tokens"]) != (result["machine"], result["tokens"]):
        raise SystemExit(f"{options.output} is of another machine or other answers; move it away.")
    return known


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
