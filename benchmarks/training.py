"""Verse against mlx_lm.lora: speed, memory, and what is learned, on the same poems and machine.

    uv run python -m benchmarks.training [--epochs 6] [--rounds 3] [--batch-size 4] [--output FILE]

Both train an adapter on a float32 copy of the base, OpenBLAS loaded before mlx in both, each in a
process of its own, in turn. Same rows (the sample poems, split once), rank, scale, rate, optimizer,
bias correction, masked prompt, number of batches. Dropout is off, since both draw it differently.

Tokens per second counts the tokens of the rows, prompt included, padding not, over the time each
trainer itself takes for its steps: no loading, validating or saving. The first epoch is left out
of it, in which both compile. Losses are measured by this file alone, one row at a time.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
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

# Each program reads its settings as JSON from its argument and prints its figures as JSON.
MLX_LM = """
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
    "seconds": [args.steps_per_report / report["iterations_per_second"] for report in reports],
    "peak_bytes": max(report["peak_memory"] for report in reports) * 1e9,
    "never_seen": len(train_set) - len(seen),
}))
"""

VERSE = """
import json, sys
import msgspec
from verse.base_model import load_base_model
from verse_trainer import run
from verse_trainer.config import TrainConfig
from verse_trainer.events import Stepped, TrainReport

config = msgspec.json.decode(sys.argv[1], type=TrainConfig)
tokens, reports = [], []

def listen(event):
    if isinstance(event, Stepped):
        tokens.append(event.tokens)
    elif isinstance(event, TrainReport):
        reports.append(event)

prepared = run.prepare(config, load_base_model(config.model))
seen = {row for step in range(1, config.iters + 1) for row in prepared.batches.batch(step)}
run.train(prepared, listen)
print(json.dumps({
    "tokens": tokens,
    "seconds": [config.steps_per_report / report.iterations_per_second for report in reports],
    "peak_bytes": max(report.peak_memory_bytes for report in reports),
    "never_seen": prepared.num_rows - len(seen),
}))
"""

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

PROGRAMS = {"mlx_lm.lora": MLX_LM, "Verse": VERSE}


def run_program(program: str, settings: dict[str, Any]) -> Any:
    """Run one program in a process of its own; returns what its last line says."""
    command = [sys.executable, "-c", program, json.dumps(settings)]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if finished.returncode:
        raise SystemExit(finished.stderr)
    return json.loads(finished.stdout.splitlines()[-1])


def prepare_files(folder: Path, base: str) -> dict[str, Any]:
    """A float32 copy of the base and the sample poems, split."""
    model, data = folder / Path(base).name, folder / "data"
    float32_copy(model, base)
    data.mkdir()
    shutil.copy(ROOT / "data" / "poems.jsonl", data)
    split = verse_command("data", "split", str(data / "poems.jsonl"))
    subprocess.run(split, check=True, stdout=subprocess.DEVNULL)
    return {"model": str(model), "data": str(data)}


def tokens_per_second(figures: dict[str, Any], steps_per_epoch: int) -> float:
    """Of the rows, without padding, after the first epoch."""
    # Reports come once an epoch.
    return sum(figures["tokens"][steps_per_epoch:]) / sum(figures["seconds"][1:])


def measure(model: str, epochs: int, rounds: int, batch_size: int) -> dict[str, Any]:
    """Train with both in turn, then measure every checkpoint of the first round."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = prepare_files(folder, model)
        num_rows = len(Path(files["data"], "train.jsonl").read_text("utf-8").splitlines())
        steps_per_epoch = -(-num_rows // batch_size)
        length = {"iters": epochs * steps_per_epoch, "batch_size": batch_size, "val_batches": -1}
        every = dict.fromkeys(("save_every", "steps_per_eval", "steps_per_report"), steps_per_epoch)
        result: dict[str, Any] = {"num_rows": num_rows, "steps_per_epoch": steps_per_epoch}
        result |= {rival: {"rounds": []} for rival in PROGRAMS}
        for number in range(rounds):
            for rival, program in PROGRAMS.items():
                place = folder / f"{rival}-{number}"
                settings = {**SETTINGS, **files, **length, **every, "adapter_path": str(place)}
                extra = {"patience": None} if rival == "Verse" else {}
                figures = run_program(program, {**settings, **extra})
                result[rival]["rounds"].append(figures)
                rate = tokens_per_second(figures, steps_per_epoch)
                print(f"round {number + 1}  {rival:12s} {rate:7.0f} tokens/s")
                if number == 0:
                    result[rival]["valid_loss"] = run_program(EVALUATE, settings)
    return result


def report(result: dict[str, Any]) -> str:
    """The figures side by side."""
    steps_per_epoch = result["steps_per_epoch"]
    rivals = tuple(PROGRAMS)
    rate = {
        rival: statistics.median(
            tokens_per_second(figures, steps_per_epoch) for figures in result[rival]["rounds"]
        )
        for rival in rivals
    }
    first = {rival: result[rival]["rounds"][0] for rival in rivals}
    lines = [
        "| | mlx_lm.lora | Verse |",
        "|---|---|---|",
        "| tokens/s | " + " | ".join(f"{rate[rival]:.0f}" for rival in rivals) + " |",
        "| peak memory, MB | "
        + " | ".join(f"{first[rival]['peak_bytes'] / 1e6:.0f}" for rival in rivals)
        + " |",
        "| rows never seen | "
        + " | ".join(f"{first[rival]['never_seen']} of {result['num_rows']}" for rival in rivals)
        + " |",
    ]
    for step in result["Verse"]["valid_loss"]:
        losses = (f"{result[rival]['valid_loss'][step]:.4f}" for rival in rivals)
        lines.append(f"| valid loss at step {step} | " + " | ".join(losses) + " |")
    return "\n".join([*lines, "", f"{rate['Verse'] / rate['mlx_lm.lora']:.2f} x the tokens/s"])


def main() -> None:
    """Measure, print the table, and keep the raw numbers if asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    add_model_option(parser)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--output", type=Path, help="write the raw numbers to this JSON file")
    arguments = parser.parse_args()
    result = measure(arguments.model, arguments.epochs, arguments.rounds, arguments.batch_size)
    result["machine"] = machine()
    print("\n" + report(result))
    if arguments.output:
        arguments.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
