"""The real server as a subprocess, on the embedded base."""

import json
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import pytest
from openai import OpenAI

ROOT = Path(__file__).parents[2]
VERSE = Path(sys.executable).with_name("verse")
EXAMPLES = (
    "daiwangshu",
    "hushi",
    "libai",
    "liubannong",
    "verse-sample",
    "wangwei",
    "wenyiduo",
    "xuzhimo",
)


@dataclass
class Served:
    """A running `verse serve`."""

    process: "subprocess.Popen[str]"
    adapters: Path
    base_url: str = ""
    model: Path = ROOT / "models" / "verse-tiny"
    output: list[str] = field(default_factory=list[str])

    @cached_property
    def client(self) -> OpenAI:
        # Retries would hide what the server answers.
        return OpenAI(base_url=self.base_url, api_key="unused", max_retries=0, timeout=180)

    def wait_until_ready(self) -> None:
        ready = threading.Event()

        def read() -> None:
            assert self.process.stdout is not None
            for line in self.process.stdout:
                self.output.append(line)
                if match := re.search(r"address\s+(http://\S+/v1)", line):
                    self.base_url = match[1]
                if line.startswith("curl "):
                    ready.set()
            ready.set()

        self._reader = threading.Thread(target=read, daemon=True)
        self._reader.start()
        assert ready.wait(180), "the server did not become ready"
        assert self.base_url, "".join(self.output)

    def stop(self) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        exit_code = self.process.wait(60)
        self._reader.join()
        assert self.process.stdout is not None
        self.process.stdout.close()
        self.client.close()
        return exit_code


@pytest.fixture(scope="session")
def endless_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """verse-tiny with an end token it never draws: a poem is as long as it is asked to be."""
    folder = tmp_path_factory.mktemp("models") / "verse-tiny"
    folder.mkdir()
    for file in ("model.safetensors", "tokenizer.json"):
        (folder / file).symlink_to(ROOT / "models" / "verse-tiny" / file)
    end = {"eos_token_id": 8191, "eos_token": "<|endoftext|>"}
    end |= {"max_position_embeddings": 1 << 15}
    for file in ("config.json", "generation_config.json", "tokenizer_config.json"):
        config = json.loads((ROOT / "models" / "verse-tiny" / file).read_text())
        (folder / file).write_text(json.dumps({**config, **end}))
    return folder


Serve = Callable[..., Served]


def copy_of_examples(folder: Path) -> Path:
    for name in EXAMPLES:
        shutil.copytree(ROOT / "adapters" / name, folder / name)
    return folder


def start(adapters: Path, *options: str) -> Served:
    command = [str(VERSE), "serve", "--port", "0", "--adapters", str(adapters), *options]
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        text=True,
        encoding="utf-8",
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    served = Served(process, adapters)
    served.wait_until_ready()
    return served


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One server for all tests that leave it as it was."""
    running = start(copy_of_examples(tmp_path_factory.mktemp("served") / "adapters"))
    yield running
    running.stop()


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Servers of one's own."""
    started: list[Served] = []

    def serve(*options: str, adapters: Path | None = None) -> Served:
        folder = adapters or copy_of_examples(tmp_path / f"adapters{len(started)}")
        started.append(start(folder, *options))
        return started[-1]

    yield serve
    for running in started:
        running.stop()
