"""What `verse serve` can be told. Defaults are stated here and nowhere else."""

import ipaddress
from pathlib import Path
from typing import Literal

import msgspec

from verse.folders import EMBEDDED_BASE


class EngineConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What the engine loads and how much it takes on."""

    model: str = EMBEDDED_BASE
    """A model folder or a Hugging Face id."""
    adapters: Path = Path("adapters")
    """By `verse.folders.found` where the command line does not say."""
    max_batch: int = 32
    """Rows that run at once; the rest wait."""
    adapter_slots: int = 16
    """Adapters resident at once; the least recently used one goes first."""
    max_rank: int = 256
    """Of an adapter; one of a larger rank is refused."""
    adapter_bytes: int | None = None
    """For adapters in memory; None takes a quarter of what the model leaves, at most."""
    prefix_cache_bytes: int | None = None
    """For keys and values of prompts seen before; 0 keeps none, None those of some hundred prompts
    on this base, 256 MiB at most."""
    max_queue: int = 512
    """Requests that may wait; more are told to come back."""
    max_tokens: int = 2048
    """Longest answer to a request that sets no limit; its memory is set aside before it starts."""
    deadline_seconds: float = 600.0
    """From being queued to the last token; a request may ask for less."""
    slow_client_seconds: float = 30.0
    """How long an answer may lie unread while it is written; then it is ended."""
    kv_cache_bytes: int | None = None
    """For keys and values of the running rows; None takes what the memory leaves."""
    cpu_weights: Literal["auto", "bf16", "int8", "float32"] = "auto"
    """How a CPU keeps the weights; `auto` goes by memory and speed. Elsewhere it says nothing."""
    pipeline: bool = False
    """Of several ranks, each computes whole layers instead of a part of every one."""
    wired_limit: bool = True
    """Keep the model in memory on macOS, as mlx-lm does."""
    poem_prompt: bool = True
    """Give the poem prompt to requests without a system message when nothing else is recorded."""


class ServerConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Where the server listens and who may talk to it."""

    engine: EngineConfig = EngineConfig()
    host: str = "127.0.0.1"
    port: int = 8000
    """0 picks a free one."""
    api_key: str | None = None
    """Never logged; None lets everybody in."""
    cors_origins: tuple[str, ...] = ()
    """Whose web pages may call the server, `*` for all; those of others get a 403."""
    allowed_hosts: tuple[str, ...] = ()
    """Names beside this machine's own that requests may ask for, `*` for any.

    Checked when `host` is a loopback address, or when there are any."""
    decisions: Path | None = None
    """The journal that decisions on the page go to; None keeps none."""
    drain_seconds: float = 10.0
    """How long running poems may go on after Ctrl-C or SIGTERM."""
    max_body_bytes: int = 1 << 20
    max_header_bytes: int = 64 << 10
    """Of one request, its path included."""
    header_seconds: float = 30.0
    """How long the headers of a request may take to arrive."""
    body_seconds: float = 60.0
    """How long its body may take after them."""
    jobs: bool = False
    """Take files, train adapters and run batches."""
    store: bool = True
    """Keep responses, so that conversations can go on from them."""
    release_base_while_training: bool = False
    """Let go of the base while a job trains; requests get a 503 meanwhile."""
    state: Path | None = None
    """Where files, jobs and responses are kept; None is `state` beside the adapters folder."""
    upload_seconds: float = 3600.0
    """How long the body of an upload may take; none of it may pause for `body_seconds`."""
    max_connections: int = 1024
    """Connections at once; fewer where the system allows fewer open files."""

    @property
    def state_folder(self) -> Path:
        """Where files, jobs and responses are kept."""
        return self.state or self.engine.adapters.absolute().parent / "state"

    def __repr__(self) -> str:
        """Like any Struct's, but for the key."""
        hidden = {"api_key": "***"} if self.api_key else {}
        values = {**msgspec.structs.asdict(self), **hidden}
        return f"ServerConfig({', '.join(f'{name}={value!r}' for name, value in values.items())})"


def is_loopback(name: str) -> bool:
    """Whether a name can mean nothing but this machine."""
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
