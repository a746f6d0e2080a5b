"""Stands in for `verse_trainer.child`: the same lines in and out, no model.

It takes a step every 20 ms, saves every second one and goes on from there if told to resume. What
it does is written in the rows: `{"fail": "..."}` makes a check fail, `{"die": true}` a training.
"""

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

_STEPS = int(os.environ.get("FAKE_STEPS", "6"))
_stopping = threading.Event()


def say(event: str, **fields: Any) -> None:
    try:
        sys.stdout.write(json.dumps({"event": event, **fields}) + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        _stopping.set()


def rows(data: Path) -> list[tuple[Path, int, dict[str, Any]]]:
    files = [path for name in ("train", "valid") if (path := data / f"{name}.jsonl").exists()]
    return [
        (path, number, json.loads(line))
        for path in files
        for number, line in enumerate(path.read_text().splitlines(), start=1)
    ]


def check(found: list[tuple[Path, int, dict[str, Any]]]) -> int:
    for path, number, row in found:
        if "fail" in row:
            say("failed", sentence=f"{path}:{number}: {row['fail']}.", about="data")
            return 2
    estimate = {"weights_bytes": 40_000_000, "adapter_bytes": 1_000_000}
    say("checked", num_rows=len(found), longest_row_tokens=9, memory_estimate=estimate)
    return 0


def train(keys: dict[str, Any], found: list[tuple[Path, int, dict[str, Any]]]) -> int:
    adapter = Path(keys["adapter_path"])
    adapter.mkdir(parents=True, exist_ok=True)
    record = adapter / "run.json"
    assert keys["resume"] == record.exists()
    begin = json.loads(record.read_text())["step"] if keys["resume"] else 0
    log = adapter / "steps.log"
    say("started", steps=_STEPS, epochs=1.0, start_step=begin)
    for step in range(begin + 1, _STEPS + 1):
        time.sleep(0.02)
        if any("die" in row for _, _, row in found):
            os.kill(os.getpid(), signal.SIGKILL)
        report = {"train_loss": 9.0 - step, "trained_tokens": step * 100, "eta_seconds": 1.0}
        with (adapter / "metrics.jsonl").open("a") as stream:
            stream.write(json.dumps({"event": "train", "step": step, **report}) + "\n")
        say("train", step=step, **report)
        if step % 2 == 0 or _stopping.is_set():
            (adapter / f"{step:07}_adapters.safetensors").write_text(str(step))
            part = adapter / "run.part"
            part.write_text(json.dumps({"step": step}))
            part.replace(record)
            with log.open("a") as stream:
                stream.write(f"{step}\n")
            say("valid", step=step, valid_loss=5.0 - step / 10)
            say("saved", step=step, path=str(adapter))
        if _stopping.is_set():
            say("finished", step=step, reason="interrupted")
            return 0
    say("finished", step=_STEPS, reason="finished", best_step=_STEPS)
    return 0


def main() -> int:
    signal.signal(signal.SIGTERM, lambda _number, _frame: _stopping.set())
    request = json.loads(sys.stdin.readline())

    def watch() -> None:
        while os.read(0, 1024):
            pass
        _stopping.set()

    threading.Thread(target=watch, daemon=True).start()
    found = rows(Path(request["keys"]["data"]))
    return check(found) if request["check"] else train(request["keys"], found)


if __name__ == "__main__":
    sys.exit(main())
