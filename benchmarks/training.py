r"""Verse against mlx_lm.lora: speed, memory, and what is learned, on the same poems and machine.

    uv run python -m benchmarks.training [--epochs 6] [--rounds 3] [--batch-size 4] [--output FILE]
    uv run python -m benchmarks.training --model QWEN --layers 8 --iters 4 --learning-rate 1e-4 \
        --rounds 3 [--before OLD_PYTHON] [--as-installed] --output FILE

All train an adapter on a float32 copy of the base, OpenBLAS loaded before mlx in all, each in a
process of its own, in turn. Same rows (the sample poems, split once), rank, scale, rate, optimizer,
bias correction, masked prompt, number of batches. Dropout is off, since each draws it differently.

Tokens per second counts the tokens of the rows, prompt included, padding not, over the time each
trainer itself takes for its steps: no loading, validating or saving. What comes before the first
report is left out of it, since there all compile: an epoch, or with --iters a step. Where frozen
layers are computed once, that pass is added as the share of it that falls to these steps in a run
of ten epochs. The peak is that of the whole process as the system counts it, loading included.
Losses are measured by this file alone, one row at a time. `--before` lets another build of Verse
take part, by its Python. `--as-installed` lets mlx_lm.lora also do one step with the BLAS that pip
installs, which takes minutes on a real model.

Whatever was measured is in the output file at once. The same command goes on from there, so that a
measurement may be done in pieces: with --folder, which keeps the copy of the base and the adapters
whose losses are to be measured, and --processes 1, each takes a minute or two on a model of 0.5B.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.parties import ROOT, add_model_option, float32_copy, machine, verse_command

SETTINGS: dict[str, Any] = {
    "fine_tune_type": "lora",
    "num_layers": 6,
    "lora_parameters": {"rank": 8, "scale": 2.0, "dropout": 0.0},
    "optimizer": "adamw",
    "optimizer_config": {"adamw": {"bias_correction": True}},
    "learning_rate": 1e-3,
    "mask_prompt": True,
    "seed": 0,
    "max_seq_length": 512,
}

# What a process took at most. Not `getrusage`: a program that was started has the peak of the one
# that started it there, until its own is higher.
PEAK = """
def peak_bytes():
    import re, resource
    try:
        status = open("/proc/self/status").read()
    except OSError:  # not Linux
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", status)[1]) * 1024
"""

# Each program reads its settings as JSON from its argument and prints its figures as JSON.
MLX_LM = (
    PEAK
    + """
from verse import openblas
openblas.preload()
import functools, json, sys, types
import mlx.core as mx
from mlx_lm import lora
from mlx_lm.tuner import trainer
from mlx_lm.tuner.callbacks import TrainingCallback

settings = json.loads(sys.argv[1])
args = types.SimpleNamespace(**{**lora.CONFIG_DEFAULTS, **settings, "train": True})
seen, counts, reports = set(), [], []

def iterate_batches(dataset, *positional, **named):
    is_training = named.get("loop", False)
    for batch, lengths in trainer.iterate_batches(dataset, *positional, **named):
        if is_training:
            counts.append(int(lengths[:, 1].sum()))
            for row, (_, length) in zip(batch.tolist(), lengths.tolist()):
                seen.add(tuple(row[:length]))
        yield batch, lengths

class Callback(TrainingCallback):
    def on_train_loss_report(self, report):
        reports.append(report)

lora.train = functools.partial(trainer.train, iterate_batches=iterate_batches)
import numpy as np
np.random.seed(args.seed)
model, tokenizer = lora.load(args.model)
train_set, valid_set, _ = lora.load_dataset(args, tokenizer)
lora.train_model(args, model, train_set, valid_set, Callback())
print()
print(json.dumps({
    "tokens": counts[: args.iters],
    "process_bytes": peak_bytes(),
    "caching_seconds": 0.0,
    "seconds": [args.steps_per_report / report["iterations_per_second"] for report in reports],
    "peak_bytes": max(report["peak_memory"] for report in reports) * 1e9,
    "never_seen": len(train_set) - len(seen),
}))
"""
)

VERSE = (
    PEAK
    + """
import json, sys, time
import msgspec
from verse.base_model import load_base_model
from verse_trainer import run
from verse_trainer.config import TrainConfig
from verse_trainer.events import Started, Stepped, TrainReport

config = msgspec.json.decode(sys.argv[1], type=TrainConfig)
tokens, reports, begun = [], [], []

def listen(event):
    if isinstance(event, Started):
        begun.append(time.perf_counter())
    elif isinstance(event, Stepped):
        tokens.append(event.tokens)
    elif isinstance(event, TrainReport):
        reports.append(event)

try:
    from verse_trainer.frozen_layers import load_for_training
except ImportError:  # a build from before there was one
    base = load_base_model(config.model)
else:
    base = load_for_training(config)
prepared = run.prepare(config, base)
seen = {row for step in range(1, config.iters + 1) for row in prepared.batches.batch(step)}
start = time.perf_counter()
run.train(prepared, listen)
print(json.dumps({
    "tokens": tokens,
    "process_bytes": peak_bytes(),
    "caching_seconds": begun[0] - start,
    "seconds": [config.steps_per_report / report.iterations_per_second for report in reports],
    "peak_bytes": max(report.peak_memory_bytes for report in reports),
    "never_seen": prepared.num_rows - len(seen),
}))
"""
)

EVALUATE = """
from verse import openblas
openblas.preload()
import json, sys
from pathlib import Path
import mlx.core as mx
from mlx_lm import load

settings = json.loads(sys.argv[1])
model, tokenizer = load(settings["model"], adapter_path=settings["adapter_path"])
model.eval()
end = tokenizer.encode("<|im_end|>", add_special_tokens=False)[-1]
rows = [json.loads(line) for line in open(settings["data"] + "/valid.jsonl", encoding="utf-8")]

def loss_of(row):
    turns = row["messages"]
    ids = tokenizer.apply_chat_template(turns, return_dict=False)
    asked = tokenizer.apply_chat_template(turns[:-1], add_generation_prompt=True, return_dict=False)
    last = len(ids) - 1 - ids[::-1].index(end)
    logits = model(mx.array([ids[:last]]))[0].astype(mx.float32)
    logs = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
    losses = [-logs[place - 1, ids[place]].item() for place in range(len(asked), last + 1)]
    return sum(losses), len(losses)

found = {}
for file in sorted(Path(settings["adapter_path"]).glob("0*_adapters.safetensors")):
    model.load_weights(str(file), strict=False)
    sums = [loss_of(row) for row in rows]
    found[int(file.name[:7])] = sum(s for s, _ in sums) / sum(n for _, n in sums)
print(json.dumps(found))
"""

MLX_LM_AS_INSTALLED = MLX_LM.replace("from verse import openblas\nopenblas.preload()\n", "")

LORA, BEFORE, NOW = "mlx_lm.lora", "Verse before", "Verse"
AS_INSTALLED = "mlx_lm.lora as installed"
_COMPLETE = ".complete"
"""Says in a folder that its files were all written."""
_CACHED_EPOCHS = 10
"""Over which the pass through frozen layers is spread, whatever is measured."""


def parties(before: str | None, *, as_installed: bool = False) -> dict[str, tuple[str, str]]:
    """Who trains: a Python and a program, by name."""
    found = {LORA: (sys.executable, MLX_LM), NOW: (sys.executable, VERSE)}
    if before is not None:
        found[BEFORE] = (before, VERSE)
    if as_installed:
        found[AS_INSTALLED] = (sys.executable, MLX_LM_AS_INSTALLED)
    return found


def run_program(python: str, program: str, settings: dict[str, Any]) -> Any:
    """Run one program in a process of its own; returns what its last line says."""
    command = [python, "-c", program, json.dumps(settings)]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if finished.returncode:
        raise SystemExit(finished.stderr)
    return json.loads(finished.stdout.splitlines()[-1])


def prepare_files(folder: Path, base: str) -> dict[str, Any]:
    """A float32 copy of the base and the sample poems, split; what is there already is taken."""
    model, data = folder / Path(base).name, folder / "data"
    if (folder / _COMPLETE).exists():
        return {"model": str(model), "data": str(data)}
    for left in (model, data):
        shutil.rmtree(left, ignore_errors=True)
    float32_copy(model, base)
    data.mkdir()
    shutil.copy(ROOT / "data" / "poems.jsonl", data)
    split = verse_command("data", "split", str(data / "poems.jsonl"))
    subprocess.run(split, check=True, stdout=subprocess.DEVNULL)
    (folder / _COMPLETE).touch()
    return {"model": str(model), "data": str(data)}


def tokens_per_second(figures: dict[str, Any], every: int, steps_per_epoch: int) -> float:
    """Of the rows, without padding, after the first report; the pass through frozen layers counts.

    Args:
        figures: Of one process; if it made one report only, that counts.
        every: Steps between reports.
        steps_per_epoch: Of the data.
    """
    left_out = 1 if len(figures["seconds"]) > 1 else 0
    tokens = sum(figures["tokens"][left_out * every :])
    seconds = sum(figures["seconds"][left_out:])
    steps = len(figures["tokens"]) - left_out * every
    caching = figures["caching_seconds"] * steps / (_CACHED_EPOCHS * steps_per_epoch)
    return tokens / (seconds + caching)


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Train with all in turn, and measure the checkpoints of each one's first round."""
    rivals = parties(arguments.before, as_installed=arguments.as_installed)
    with work_folder(arguments.folder) as folder:
        files = prepare_files(folder, arguments.model)
        num_rows = len(Path(files["data"], "train.jsonl").read_text("utf-8").splitlines())
        steps_per_epoch = -(-num_rows // arguments.batch_size)
        settings = settings_of(arguments, steps_per_epoch)
        every = settings["steps_per_report"]
        result: dict[str, Any] = {"num_rows": num_rows, "steps_per_epoch": steps_per_epoch}
        result |= {"every": every, "rivals": list(rivals), "settings": settings}
        result |= {rival: {"rounds": []} for rival in rivals}
        result = continued(arguments.output, result)
        left = arguments.processes
        for number, rival in [(n, r) for n in range(arguments.rounds) for r in rivals]:
            rounds, own = result[rival]["rounds"], {**settings, **files}
            own["adapter_path"] = str(folder / f"{rival}-{number}")
            if left > 0 and is_due(number, rival, rounds):
                train(own, rivals[rival], rival, rounds)
                rate = tokens_per_second(rounds[-1], every, steps_per_epoch)
                show(number, rival, rounds[-1], rate)
                left -= 1
                save(arguments.output, result)
            is_measured = arguments.no_losses or "valid_loss" in result[rival]
            if number or is_measured or rival == AS_INSTALLED or left <= 0:
                continue
            if Path(own["adapter_path"]).is_dir():
                result[rival]["valid_loss"] = run_program(sys.executable, EVALUATE, own)
                left -= 1
                save(arguments.output, result)
    return result


def is_due(number: int, rival: str, rounds: list[Any]) -> bool:
    """Whether a round is still to be made; of the slowest one is enough."""
    return len(rounds) <= number and not (number and rival == AS_INSTALLED)


def train(own: dict[str, Any], party: tuple[str, str], rival: str, rounds: list[Any]) -> None:
    """One process; its figures are added to the rounds."""
    shutil.rmtree(own["adapter_path"], ignore_errors=True)  # of a piece that was cut off
    python, program = party
    told = dict(own)
    if program is VERSE:
        told["patience"] = None
    if rival == AS_INSTALLED:
        told |= {"iters": 1, "steps_per_report": 1}
    rounds.append(run_program(python, program, told))


@contextmanager
def work_folder(kept: Path | None) -> Generator[Path]:
    """Where the copy of the base and the adapters lie: a folder that is kept, or one that goes."""
    if kept is not None:
        kept.mkdir(parents=True, exist_ok=True)
        yield kept.resolve()
        return
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def settings_of(arguments: argparse.Namespace, steps_per_epoch: int) -> dict[str, Any]:
    """What all programs are told, but for files."""
    checkpoints = arguments.iters or steps_per_epoch
    return {
        **SETTINGS,
        "iters": arguments.iters or arguments.epochs * steps_per_epoch,
        "batch_size": arguments.batch_size,
        "num_layers": arguments.layers,
        "learning_rate": arguments.learning_rate,
        "val_batches": 1 if arguments.iters else -1,
        "save_every": checkpoints,
        "steps_per_eval": checkpoints,
        "steps_per_report": 1 if arguments.iters else steps_per_epoch,
    }


def continued(output: Path | None, fresh: dict[str, Any]) -> dict[str, Any]:
    """What the output file holds of the same measurement; else `fresh`."""
    if output is None or not output.exists():
        return fresh
    found = json.loads(output.read_text("utf-8"))
    kept = ("num_rows", "settings")
    if any(found.get(key) != fresh[key] for key in kept):
        raise SystemExit(f"{output} holds another measurement; name another --output.")
    rivals = fresh["rivals"] + [name for name in found["rivals"] if name not in fresh["rivals"]]
    return {**fresh, **found, "rivals": rivals}


def save(output: Path | None, result: dict[str, Any]) -> None:
    """Keep the figures so far."""
    if output is not None:
        output.write_text(json.dumps({**result, "machine": machine()}, indent=1) + "\n", "utf-8")


def show(number: int, rival: str, figures: dict[str, Any], rate: float) -> None:
    """One line for one process."""
    print(
        f"round {number + 1}  {rival:12s} {rate:7.1f} tokens/s, "
        f"process {figures['process_bytes'] / 1e6:.0f} MB, "
        f"caching pass {figures['caching_seconds']:.1f} s",
        flush=True,
    )


def report(result: dict[str, Any]) -> str:
    """The figures side by side, medians over the rounds; ratios are taken within a round."""
    rivals: list[str] = result["rivals"]
    of = {rival: result[rival]["rounds"] for rival in rivals}
    rates = {
        rival: [
            tokens_per_second(figures, result["every"], result["steps_per_epoch"])
            for figures in of[rival]
        ]
        for rival in rivals
    }
    peaks = {rival: [figures["process_bytes"] for figures in of[rival]] for rival in rivals}

    def row(what: str, cells: Iterable[str]) -> str:
        return f"| {what} | " + " | ".join(cells) + " |"

    def ratio(figures: dict[str, list[float]], rival: str) -> str:
        pairs = zip(figures[NOW], figures[rival], strict=False)  # as installed: one round
        return f"{statistics.median(now / other for now, other in pairs):.2f}"

    median = statistics.median
    lines = [
        row("", rivals),
        "|---|" + "---|" * len(rivals),
        row("tokens/s", (f"{median(rates[rival]):.1f}" for rival in rivals)),
        row("Verse is so many times as fast", (ratio(rates, rival) for rival in rivals)),
        row("peak of the process, MB", (f"{median(peaks[rival]) / 1e6:.0f}" for rival in rivals)),
        row("Verse takes so many times that", (ratio(peaks, rival) for rival in rivals)),
        row("mlx's peak, MB", (f"{of[rival][0]['peak_bytes'] / 1e6:.0f}" for rival in rivals)),
        row("caching pass, s", (f"{of[rival][0]['caching_seconds']:.1f}" for rival in rivals)),
        row(
            f"rows never seen of {result['num_rows']}",
            (str(of[rival][0]["never_seen"]) for rival in rivals),
        ),
    ]
    losses: dict[str, dict[str, float]] = {
        rival: result[rival].get("valid_loss", {}) for rival in rivals
    }
    for step in losses[NOW]:
        cells = (f"{losses[rival][step]:.4f}" if step in losses[rival] else "" for rival in rivals)
        lines.append(row(f"valid loss at step {step}", cells))
    if losses[NOW]:
        cells = (difference(losses[NOW], losses[rival]) for rival in rivals)
        lines.append(row("Verse's differs at most by", cells))
    return "\n".join(lines)


def difference(ours: dict[str, float], theirs: dict[str, float]) -> str:
    """The largest at a step that both have, in percent of theirs."""
    found = [abs(ours[step] / loss - 1) for step, loss in theirs.items() if step in ours]
    return f"{max(found):.2%}" if found else ""


def parse(given: list[str] | None = None) -> argparse.Namespace:
    """What is asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    add_model_option(parser)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--iters", type=int, help="so few steps instead, each reported by itself")
    parser.add_argument("--layers", type=int, default=SETTINGS["num_layers"])
    parser.add_argument("--learning-rate", type=float, default=SETTINGS["learning_rate"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--before", help="Python of another build of Verse, to take part")
    parser.add_argument(
        "--as-installed", action="store_true", help="also one step of mlx_lm.lora without OpenBLAS"
    )
    parser.add_argument("--no-losses", action="store_true", help="measure no losses")
    parser.add_argument("--output", type=Path, help="write the raw numbers to this JSON file")
    parser.add_argument(
        "--folder", type=Path, help="keep the copy of the base and the adapters here, for pieces"
    )
    parser.add_argument(
        "--processes", type=int, default=sys.maxsize, help="stop after so many, to be continued"
    )
    return parser.parse_args(given)


def main() -> None:
    """Measure, print the table, and keep the raw numbers if asked."""
    arguments = parse()
    result = measure(arguments)
    save(arguments.output, result)
    if all(result[rival]["rounds"] for rival in result["rivals"]):
        print("\n" + report(result))


if __name__ == "__main__":
    main()
