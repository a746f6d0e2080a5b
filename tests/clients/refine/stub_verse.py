"""Stands in for `verse` in tests of the round: writes what the real commands would, and counts.

It imports nothing of Verse, so a step takes no time. `calls.log` gets one line per command; a file
`fail-NAME` makes a command fail, `slow-NAME` makes it wait halfway until the file is gone.
"""

import json
import sys
import time
from pathlib import Path


def option(words: list[str], name: str) -> str:
    return words[words.index(name) + 1]


def generate(words: list[str]) -> None:
    """As the real one: asks only for what is missing."""
    output = Path(option(words, "-o"))
    done = output.read_text("utf-8").count("\n") if output.exists() else 0
    for number in range(done, 6):
        if number == 3:
            wait("generate")
        row = {"theme": f"题{number % 2}", "text": f"第{number}首", "sample": number}
        append(output, json.dumps(row | {"adapter": option(words, "--adapters")}))
        append(Path("asked.log"), f"{output} {number}")


def refine(words: list[str]) -> None:
    poems = Path(option(words, "-i")) if "-i" in words else Path(words[2])
    output = Path(option(words, "-o"))
    output.write_bytes(poems.read_bytes())
    if words[1] == "convert":
        (output.parent / "data").mkdir(exist_ok=True)
        (output.parent / "data" / "poems.jsonl").write_bytes(poems.read_bytes())
    if words[1] == "compare":
        Path(option(words, "--numbers")).write_text("[]")


def judge(words: list[str]) -> None:
    rows = Path(option(words, "-i")).read_text("utf-8").splitlines()
    ranked = [{"candidate": json.loads(row), "rank": n} for n, row in enumerate(rows, 1)]
    Path(option(words, "-o")).write_text(json.dumps(ranked), "utf-8")


def data(words: list[str]) -> None:
    poems = Path(words[2])
    for name in ("train.jsonl", "valid.jsonl"):
        poems.with_name(name).write_bytes(poems.read_bytes())


def train(words: list[str]) -> None:
    folder = Path(option(words, "--adapter-path"))
    if folder.exists() and "--resume" not in words:
        sys.exit(2)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "run.json").write_text("{}")
    wait("train")
    (folder / "adapters.safetensors").write_bytes(b"weights")


def wait(name: str) -> None:
    while Path(f"slow-{name}").exists():
        time.sleep(0.02)


def append(path: Path, line: str) -> None:
    with path.open("a", encoding="utf-8") as stream:
        stream.write(line + "\n")


COMMANDS = {"generate": generate, "refine": refine, "judge": judge, "data": data, "train": train}


def main(words: list[str]) -> int:
    append(Path("calls.log"), " ".join(words))
    if Path(f"fail-{words[0]}").exists():
        sys.stderr.write("first line\nThe server is down; start it with `verse serve`.\n")
        return 2
    COMMANDS[words[0]](words)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
