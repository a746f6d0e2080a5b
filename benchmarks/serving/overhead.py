"""What the engine's step takes beyond the model's forward, at 32 rows of the base.

Everything is timed in one process, on the same weights and the same thread: the forward alone, as
a task between the engine's steps, and the engine's steps, greedy and drawing.
"""

from statistics import median
from typing import Any

from benchmarks.serving.bench import Bench, Settings
from benchmarks.serving.child import running
from benchmarks.serving.table import markdown

ROWS = 32
_FORWARD = "forward alone"
_KINDS = {
    _FORWARD: {"forward": "KVCache"},
    "forward alone, mlx-lm's batched cache": {"forward": "BatchKVCache"},
    "engine, greedy": {"temperature": 0.0, "top_p": 1.0},
    "engine, temperature 1 and top_p 0.9": {"temperature": 1.0, "top_p": 0.9},
}


def estimated_seconds(settings: Settings) -> float:
    """On two cores."""
    return 5 + len(_KINDS) * settings.rounds * settings.tokens * 0.045


def measure(bench: Bench) -> dict[str, Any]:
    """Seconds of a step, of each kind, round by round after one that is not counted."""
    steps: dict[str, list[float]] = {kind: [] for kind in _KINDS}
    program = "benchmarks.serving.decode_step"
    with running(program, str(bench.model), str(bench.adapters)) as child:
        for number in range(bench.settings.rounds + 1):
            for kind, command in _KINDS.items():
                seconds = child.ask({**command, "rows": ROWS, "steps": bench.settings.tokens})
                if number:
                    steps[kind].append(seconds)
                    print(f"round {number}  {kind:42s} {seconds * 1e3:7.2f} ms", flush=True)
    return {"step_seconds": steps}


def report(result: dict[str, Any]) -> list[str]:
    """Medians; overheads are taken within a round."""
    steps = result["step_seconds"]
    rows: list[list[object]] = []
    for kind, seconds in steps.items():
        beyond = median(a / b - 1 for a, b in zip(seconds, steps[_FORWARD], strict=True))
        rows.append([kind, f"{median(seconds) * 1e3:.2f}", f"{beyond:+.1%}"])
    return markdown([f"one step of {ROWS} rows", "ms", "beyond the forward (aim below 10 %)"], rows)
