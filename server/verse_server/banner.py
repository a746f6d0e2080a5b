"""What `verse serve` prints while it starts and once it is ready."""

from collections.abc import Callable, Generator
from contextlib import contextmanager

import msgspec
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from verse.terminal import show_line
from verse_server.config import ServerConfig
from verse_server.engine.types import BaseInfo, ModelInfo, SamplingParams

_ANYWHERE = ("0.0.0.0", "::")


@contextmanager
def loading(console: Console, model: str) -> Generator[Callable[[float], None], None, None]:
    """Show a progress line while the block runs.

    Yields:
        To be called with the share that is done, 0 to 1, from any thread.
    """
    label = TextColumn("Loading {task.fields[model]}", markup=False)
    columns = (label, BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=1.0, model=model)
        yield lambda share: progress.update(task, completed=share)


def show_ready(
    console: Console,
    config: ServerConfig,
    port: int,
    base: BaseInfo,
    models: list[ModelInfo],
    warnings: list[str],
) -> None:
    """Print where the server is, what it serves and how to try it."""
    adapters = [model.id for model in models if model.id != base.id]
    table = Table.grid(padding=(0, 2))
    for name, value in _facts(config, port, base, adapters).items():
        table.add_row(Text(name, style="bold"), Text(value, overflow="fold"))
    console.print(table)
    for line in warnings:
        _plain(console, f"warning: {line}", style="yellow")
    if config.api_key is None and config.host not in ("127.0.0.1", "localhost", "::1"):
        _plain(
            console,
            "warning: no --api-key: anyone who can reach this address can use it.",
            "yellow",
        )
    _plain(console, "Try it:")
    _plain(console, _curl_line(config, port, adapters[0] if adapters else base.id))


def _facts(config: ServerConfig, port: int, base: BaseInfo, adapters: list[str]) -> dict[str, str]:
    return {
        "address": f"{_address(config.host, port)}/v1",
        "page": f"{_address(_local(config.host), port)}/",
        "base": base.id,
        "dtype": base.dtype,
        "weights": ", ".join(filter(None, [f"{base.bytes / 1e6:,.0f} MB", base.weights])),
        "context": f"{base.context_length} tokens",
        "sampling": _sampling(base.sampling),
        "adapters": ", ".join(adapters) or f"none in {config.engine.adapters}",
    }


def _sampling(sampling: SamplingParams) -> str:
    """The base's defaults, those that say nothing left out, but always the temperature."""
    neutral = msgspec.structs.asdict(SamplingParams())
    values = msgspec.structs.asdict(sampling)
    shown = {k: v for k, v in values.items() if k == "temperature" or v != neutral[k]}
    return ", ".join(f"{name} {value:g}" for name, value in shown.items())


def _address(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _curl_line(config: ServerConfig, port: int, model: str) -> str:
    host = _local(config.host)
    key = "" if config.api_key is None else ' -H "Authorization: Bearer $VERSE_API_KEY"'
    body = {"model": model, "messages": [{"role": "user", "content": "河"}]}
    # A quote would end the shell's string.
    text = msgspec.json.encode(body).decode().replace("'", "\\u0027")
    return (
        f"curl {_address(host, port)}/v1/chat/completions{key} "
        f"-H 'Content-Type: application/json' -d '{text}'"
    )


def _local(host: str) -> str:
    """What to ask for on this machine."""
    return "127.0.0.1" if host in _ANYWHERE else host


def _plain(console: Console, line: str, style: str | None = None) -> None:
    """Print one line as it is: no markup, no wrapping, so that it can be copied."""
    show_line(console, line, style)
