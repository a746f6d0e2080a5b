"""Verse against mlx_lm.server and mlx_lm.batch_generate, and against itself, in six parts.

    uv run python -m benchmarks.serving [--only throughput,ttft] [--rounds 5] [--output FILE]

    throughput  tokens per second at 1 to 32 streams: base, one adapter, 16 mixed, 16 blends
    ragged      the same while rows join and leave all the time, as poems do that end by themselves
    ttft        time to first token, cold and with the beginning of the prompt known
    publish     gaps between the tokens of running streams while an adapter is published
    zipf        1,000 adapter folders asked for as Zipf has it: tokens per second, memory
    overhead    a decode step of the engine beside the model's forward alone

All on a float32 copy of the base with the same OpenBLAS in every process, greedy, each answer
exactly --tokens long: the copy's end token is one that no model writes. In `ragged` poems are drawn
and end by themselves. The 16 adapters are of rank 8 on the last 8 layers, with small noise for
weights. Nothing else should run on the machine meanwhile. The estimates are for verse-tiny.
"""

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from benchmarks.parties import add_model_option, machine, numbers, some_of
from benchmarks.serving import overhead, publish, ragged, throughput, ttft, zipf
from benchmarks.serving.bench import Bench, Settings, workbench


class Part(Protocol):
    """One of the modules that measure."""

    def estimated_seconds(self, settings: Settings) -> float:
        """On two cores."""
        ...

    def measure(self, bench: Bench) -> dict[str, Any]:
        """Raw figures, ready for JSON."""
        ...

    def report(self, result: dict[str, Any]) -> list[str]:
        """Lines of Markdown."""
        ...


PARTS: dict[str, Part] = {
    "throughput": throughput,
    "ragged": ragged,
    "ttft": ttft,
    "publish": publish,
    "zipf": zipf,
    "overhead": overhead,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print the tables, and keep the raw numbers if asked."""
    options = _parser().parse_args(arguments)
    settings = Settings(
        rounds=options.rounds,
        tokens=options.tokens,
        streams=options.streams,
        folders=options.folders,
        model=options.model,
    )
    _announce(settings, options.only)
    result: dict[str, Any] = {"machine": machine()}
    tables: list[str] = []
    with workbench(settings) as bench:
        for name in options.only:
            start = time.perf_counter()
            print(f"\n{name}", flush=True)
            result[name] = PARTS[name].measure(bench)
            result[name]["seconds"] = time.perf_counter() - start
            tables += ["", *PARTS[name].report(result[name])]
            if options.output:  # after every part: what is measured is not lost with the next
                options.output.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    print("\n".join(tables))


def _announce(settings: Settings, names: Sequence[str]) -> None:
    print(settings)
    minutes = {name: PARTS[name].estimated_seconds(settings) / 60 for name in names}
    listed = ", ".join(f"{name} {value:.1f}" for name, value in minutes.items())
    print(f"about {sum(minutes.values()):.0f} minutes on two cores: {listed}", flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.serving",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    add = parser.add_argument
    say = "parts, with commas between; all if left"
    add("--only", type=some_of(PARTS), default=tuple(PARTS), help=say)
    add("--rounds", type=int, default=5, help="medians are over so many (5)")
    add("--tokens", type=int, default=64, help="of every answer (64)")
    add("--streams", type=numbers, default=(1, 2, 4, 8, 16, 32), help="1,2,4,8,16,32")
    add("--folders", type=int, default=1000, help="of the Zipf part (1000)")
    add_model_option(parser)
    add("--output", type=Path, help="write the raw numbers to this JSON file")
    return parser


if __name__ == "__main__":
    main()
