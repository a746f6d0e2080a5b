"""Processes that measure inside themselves: one line of JSON is asked, one is answered."""

import json
import subprocess
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

from benchmarks.parties import ROOT, with_openblas


class Child:
    """A child as its parent sees it."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def ask(self, command: dict[str, Any]) -> Any:
        """Have it do something and wait for what it says."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("A process that measures in itself died; its error is above.")
        return json.loads(line)


@contextmanager
def running(module: str, *arguments: str) -> Generator[Child]:
    """Start a module that calls `obey`, after OpenBLAS; it ends with the block."""
    process = subprocess.Popen(
        with_openblas(module, *arguments),
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield Child(process)
    finally:
        process.communicate()  # closes its stdin, which ends it


def obey(handle: Callable[[Any], Any]) -> None:
    """In the child: answer one command after another until the parent is gone."""
    for line in sys.stdin:
        print(json.dumps(handle(json.loads(line))), flush=True)
