"""Who takes part in a measurement: the base they all get, and the servers, started alike.

Every process loads the same OpenBLAS with the same number of threads before mlx. Every one gets a
float32 copy of the base: mlx-lm, which makes none itself, would compute in float16 without any
BLAS on a CPU.
"""

import argparse
import json
import os
import platform
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import httpx

ROOT = Path(__file__).resolve().parents[1]
MODEL = os.environ.get("VERSE_QWEN") or str(ROOT / "models" / "verse-tiny")
"""What is measured where `--model` names no other base."""
THEMES = tuple((ROOT / "data" / "themes.txt").read_text("utf-8").split())

_NO_UTF8 = "À"
"""The vocabulary's name of the byte C0, which no text holds and no model writes."""
_START_SECONDS = 120
_SLOT_TOKENS = 512
"""Prompt and answer together, in a slot of llama-server."""

# Runs the module that its first argument names, as `python -m` does. Five connections are all that
# Python's HTTP server, and so mlx_lm.server, lets wait; the rest of a burst of 32 would be reset.
_PROGRAM = """
import runpy, socketserver, sys
from verse import openblas
openblas.preload(spare_cores=1)
socketserver.TCPServer.request_queue_size = 2048
runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
"""


@dataclass(frozen=True)
class Server:
    """A server that answers."""

    port: int
    pid: int
    start_seconds: float
    """From its start to its first answer."""

    @property
    def base_url(self) -> str:
        """Without `/v1`."""
        return f"http://127.0.0.1:{self.port}"


def with_openblas(module: str, *arguments: str) -> list[str]:
    """The command that runs a Python module after OpenBLAS."""
    return [sys.executable, "-c", _PROGRAM, module, *arguments]


def verse_command(*arguments: str) -> list[str]:
    """`verse ...`, which loads OpenBLAS itself."""
    return [str(Path(sys.executable).with_name("verse")), *arguments]


@contextmanager
def verse_server(model: Path, adapters: Path, *options: str) -> Generator[Server]:
    """`verse serve` with its defaults but for the options, until the block ends."""
    folders = ["--model", str(model), "--adapters", str(adapters)]
    with served(verse_command("serve", *folders, *options)) as server:
        yield server


@contextmanager
def mlx_lm_server(model: Path) -> Generator[Server]:
    """`mlx_lm.server` with as many concurrent rows as Verse has, until the block ends."""
    rows = ["--decode-concurrency", "32", "--prompt-concurrency", "32"]
    with served(with_openblas("mlx_lm.server", "--model", str(model), *rows)) as server:
        yield server


@contextmanager
def llama_server(
    binary: Path, gguf: Path, loras: Sequence[Path], *, slots: int, threads: int
) -> Generator[Server]:
    """llama.cpp's server with a slot for every stream, until the block ends.

    Args:
        binary: `llama-server`.
        gguf: The model.
        loras: Adapters in its format; a request names them by their number.
        slots: Requests at a time.
        threads: Of a decode step and of a prefill.
    """
    options = ["-m", gguf, "-np", slots, "-c", slots * _SLOT_TOKENS, "--no-webui"]
    options += ["-t", threads, "-tb", threads]
    if loras:
        options += ["--lora", ",".join(map(str, loras)), "--lora-init-without-apply"]
    with served([str(binary), *map(str, options)]) as server:
        yield server


@contextmanager
def served(command: list[str]) -> Generator[Server]:
    """A server on a free port, until the block ends."""
    port, start = _free_port(), time.perf_counter()
    process = subprocess.Popen(
        [*command, "--port", str(port)],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        while not _answers(port):
            if process.poll() is not None or time.perf_counter() - start > _START_SECONDS:
                raise SystemExit(f"The server did not start: {' '.join(command)}")
            time.sleep(0.05)
        yield Server(port, process.pid, time.perf_counter() - start)
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            print("The server did not end by itself.", flush=True)
            process.kill()
            process.wait()


def _answers(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/health", timeout=60).status_code == 200
    except httpx.TransportError:
        return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def add_model_option(parser: argparse.ArgumentParser) -> None:
    """`--model`, the base that a benchmark serves or trains."""
    say = "folder or Hugging Face id of the base (VERSE_QWEN, or verse-tiny)"
    parser.add_argument("--model", default=MODEL, help=say)


def numbers(text: str) -> tuple[int, ...]:
    """The value of an option: `1,8,32`."""
    return tuple(map(int, text.split(",")))


def some_of(known: Collection[str]) -> Callable[[str], tuple[str, ...]]:
    """What reads the value of an option: names, with commas between."""

    def read(text: str) -> tuple[str, ...]:
        names = tuple(text.split(","))
        if unknown := set(names) - set(known):
            raise argparse.ArgumentTypeError(f"{min(unknown)!r} is none of {', '.join(known)}")
        return names

    return read


def model_folder(name: str) -> Path:
    """Where a base lies on this disk; one of Hugging Face is downloaded."""
    if Path(name).is_dir():
        return Path(name).resolve()
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(name, allow_patterns=["*.json", "*.jinja", "*.safetensors"]))


def float32_copy(folder: Path, model: str = MODEL) -> Path:
    """A base with every weight as float32, in a new folder."""
    import mlx.core as mx

    source = model_folder(model)
    if "quantization" in json.loads((source / "config.json").read_text("utf-8")):
        raise SystemExit(
            f"{model} is quantized, and mlx-lm would compute in its types; name another."
        )
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("recipe", "*.safetensors"))
    for file in source.glob("*.safetensors"):
        weights = {name: array.astype(mx.float32) for name, array in mx.load(str(file)).items()}
        mx.save_safetensors(str(folder / file.name), weights, metadata={"format": "mlx"})
    return folder


def never_ending(model: Path) -> Path:
    """Change a base so that it ends no answer by itself: all then have `max_tokens` tokens."""
    vocabulary = json.loads((model / "tokenizer.json").read_text("utf-8"))["model"]["vocab"]
    _change(model / "config.json", eos_token_id=vocabulary[_NO_UTF8])
    _change(model / "generation_config.json", eos_token_id=vocabulary[_NO_UTF8])
    _change(model / "tokenizer_config.json", eos_token=_NO_UTF8)
    return model


def _change(file: Path, **values: object) -> None:
    settings = json.loads(file.read_text("utf-8"))
    file.write_text(json.dumps({**settings, **values}), "utf-8")


def resident_bytes(pid: int) -> int:
    """What a process holds in memory now."""
    statm = Path(f"/proc/{pid}/statm")
    if statm.exists():  # at once: a benchmark that reads clocks does not stand still meanwhile
        return int(statm.read_text("ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    printed = subprocess.run(["ps", "-o", "rss=", "-p", str(pid)], capture_output=True, check=True)
    return int(printed.stdout) * 1024


def peak_bytes(pid: int) -> int:
    """The most that a process ever held in memory; on Linux."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text("utf-8"))
    return int(found[1]) * 1024 if found else 0


def available_bytes() -> int | None:
    """What new processes may still hold in memory; known on Linux."""
    meminfo = Path("/proc/meminfo")
    if not meminfo.exists():
        return None
    found = re.search(r"MemAvailable:\s+(\d+) kB", meminfo.read_text("ascii"))
    return int(found[1]) * 1024 if found else None


def machine() -> str:
    """What it was measured on, in words."""
    versions = ", ".join(f"{name} {version(name)}" for name in ("mlx", "mlx-lm"))
    system = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    return f"{system}, Python {platform.python_version()}, {versions}"
