"""Four ways to give every row of a batch its own adapter's update, timed side by side.

    uv run python -m benchmarks.lora [--rounds 5] [--output FILE]

One Linear of the base, 16 adapters, 32 rows that use them in turn. `gather_mm` is what the engine
does (`engine/adapters/lora.py`): two products that read each row's factors where they are.
`gathered` copies them first. `stacked` makes two products over the columns of all adapters with a
mask between them. `grouped` sorts the rows by adapter and makes two products for each. One token a
row is a decode step, 45 are the prefill of a poem prompt. Medians of the rounds; the ways alternate
within a round.
"""

import argparse
import itertools
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from verse import openblas

openblas.preload(spare_cores=1)

import mlx.core as mx  # noqa: E402

NUM_ADAPTERS, RANK, NUM_ROWS = 16, 8, 32
SHAPES = {"verse-tiny mlp": (320, 896), "2k model mlp": (2048, 5632)}
TOKENS = {"decode": 1, "prefill": 45}
Way = Callable[[mx.array], mx.array]


def ways(in_dims: int, out_dims: int) -> dict[str, Way]:
    """The same update three times; slot s belongs to every row r with r % NUM_ADAPTERS == s."""
    a = mx.random.normal((NUM_ADAPTERS, RANK, in_dims)) * in_dims**-0.5
    b = mx.random.normal((NUM_ADAPTERS, RANK, out_dims))
    slots = [row % NUM_ADAPTERS for row in range(NUM_ROWS)]
    index = mx.array(slots)
    own = index[:, None] == mx.arange(NUM_ADAPTERS)
    weights = mx.repeat(own.astype(mx.float32), RANK, axis=1)[:, None]
    stacked_a, stacked_b = a.reshape(-1, in_dims).T, b.reshape(-1, out_dims)
    rows_of = [mx.array([r for r in range(NUM_ROWS) if slots[r] == s]) for s in set(slots)]
    back = mx.argsort(mx.concatenate(rows_of))

    def stacked(x: mx.array) -> mx.array:
        z = x @ stacked_a
        return mx.where(weights != 0, z * weights, mx.zeros((), z.dtype)) @ stacked_b

    def gathered(x: mx.array) -> mx.array:
        return (x @ a[index].swapaxes(1, 2)) @ b[index]

    def gather_mm(x: mx.array) -> mx.array:
        return mx.gather_mm(
            mx.gather_mm(x, a.swapaxes(1, 2), rhs_indices=index), b, rhs_indices=index
        )

    def grouped(x: mx.array) -> mx.array:
        parts = [x[rows] @ a[slot].T @ b[slot] for slot, rows in enumerate(rows_of)]
        return mx.concatenate(parts)[back]

    mx.eval(weights, stacked_a, stacked_b, a, b, index, back, rows_of)
    return {"gather_mm": gather_mm, "gathered": gathered, "stacked": stacked, "grouped": grouped}


def seconds(way: Way, x: mx.array, repeats: int) -> float:
    """The fastest of some runs, the first of which does not count."""
    mx.eval(way(x))
    times: list[float] = []
    for _ in range(repeats):
        start = time.perf_counter()
        mx.eval(way(x))
        times.append(time.perf_counter() - start)
    return min(times)


def measure(num_rounds: int) -> list[dict[str, object]]:
    """One record for each shape and number of tokens: milliseconds by way."""
    records: list[dict[str, object]] = []
    for (shape, dims), (phase, length) in itertools.product(SHAPES.items(), TOKENS.items()):
        x = mx.random.normal((NUM_ROWS, length, dims[0]))
        table = ways(*dims)
        first = table["stacked"](x)
        for way in table.values():  # the three must agree, or the comparison says nothing
            assert mx.allclose(way(x), first, rtol=1e-3, atol=1e-3)
        rounds = [{n: seconds(w, x, 5) for n, w in table.items()} for _ in range(num_rounds)]
        medians = {n: 1000 * statistics.median(r[n] for r in rounds) for n in table}
        records.append({"linear": shape, "phase": phase, **medians})
        print(
            f"| {shape} | {phase} |",
            " | ".join(f"{medians[n]:.2f}" for n in table),
            "|",
            flush=True,
        )
    return records


def main() -> None:
    """Print the table; write it as JSON too if asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    print(
        f"{platform.platform()}, mlx {mx.__version__} on {mx.default_device()}, "
        f"ms for {NUM_ROWS} rows"
    )
    print(
        "| Linear | phase | gather_mm | gathered | stacked | grouped |\n|---|---|---|---|---|---|"
    )
    records = measure(args.rounds)
    if args.output:
        args.output.write_text(json.dumps(records, indent=1))


if __name__ == "__main__":
    main()
