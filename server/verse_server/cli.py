"""`verse serve`: options and environment in, a running server out.

Nothing heavy is imported before the command runs: `verse --help` loads this module.
"""

import gc
import logging
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from verse import terminal
from verse.folders import RULE, found, own
from verse_server.config import EngineConfig, ServerConfig, is_loopback

if TYPE_CHECKING:
    from rich.console import Console

    from verse_server.ranks import LostRank
    from verse_server.state.folder import ServerState

_ENGINE = EngineConfig()
_SERVER = ServerConfig()

app = typer.Typer(add_completion=False, pretty_exceptions_show_locals=False, rich_markup_mode=None)


@app.command(epilog=RULE)
def serve(
    model: Annotated[
        str, typer.Option(envvar="VERSE_MODEL", help="A model folder or a Hugging Face id.")
    ] = _ENGINE.model,
    adapters: Annotated[
        Path | None,
        typer.Option(
            envvar="VERSE_ADAPTERS",
            show_default=str(_ENGINE.adapters),
            help="The folder with one folder per adapter.",
        ),
    ] = None,
    host: Annotated[
        str, typer.Option(envvar="VERSE_HOST", help="The address to listen on.")
    ] = _SERVER.host,
    port: Annotated[
        int,
        typer.Option(
            envvar="VERSE_PORT", min=0, max=65535, help="The port to listen on; 0 picks a free one."
        ),
    ] = _SERVER.port,
    max_batch: Annotated[
        int,
        typer.Option(envvar="VERSE_MAX_BATCH", min=1, help="Poems written at once; others wait."),
    ] = _ENGINE.max_batch,
    adapter_slots: Annotated[
        int,
        typer.Option(envvar="VERSE_ADAPTER_SLOTS", min=1, help="Adapters kept in memory at once."),
    ] = _ENGINE.adapter_slots,
    max_rank: Annotated[
        int,
        typer.Option(
            envvar="VERSE_MAX_RANK", min=1, help="Largest rank of an adapter; others are refused."
        ),
    ] = _ENGINE.max_rank,
    adapter_bytes: Annotated[
        int | None,
        typer.Option(
            envvar="VERSE_ADAPTER_BYTES",
            min=1,
            show_default="what the slots can need, at most a quarter of the memory left",
            help="Memory for adapters; a larger one is refused.",
        ),
    ] = _ENGINE.adapter_bytes,
    prefix_cache_bytes: Annotated[
        int | None,
        typer.Option(
            envvar="VERSE_PREFIX_CACHE_BYTES",
            min=0,
            show_default="what 6,144 tokens take, at most 256 MiB",
            help="Memory for prompts seen before; 0 remembers none.",
        ),
    ] = _ENGINE.prefix_cache_bytes,
    kv_cache_bytes: Annotated[
        int | None,
        typer.Option(
            envvar="VERSE_KV_CACHE_BYTES",
            min=1,
            show_default="what the memory leaves",
            help="Memory for the poems being written; requests wait until there is room.",
        ),
    ] = _ENGINE.kv_cache_bytes,
    max_queue: Annotated[
        int,
        typer.Option(
            envvar="VERSE_MAX_QUEUE", min=1, help="Requests that may wait; more get a 429."
        ),
    ] = _ENGINE.max_queue,
    max_tokens: Annotated[
        int,
        typer.Option(
            envvar="VERSE_MAX_TOKENS", min=1, help="Longest answer to a request that sets no limit."
        ),
    ] = _ENGINE.max_tokens,
    deadline_seconds: Annotated[
        float,
        typer.Option(
            envvar="VERSE_DEADLINE_SECONDS",
            min=1,
            help="Longest a request may take, waiting included.",
        ),
    ] = _ENGINE.deadline_seconds,
    slow_client_seconds: Annotated[
        float,
        typer.Option(
            envvar="VERSE_SLOW_CLIENT_SECONDS",
            min=1,
            help="Longest a client may read nothing of a stream; then it is ended.",
        ),
    ] = _ENGINE.slow_client_seconds,
    cpu_weights: Annotated[
        Literal["auto", "bf16", "int8", "float32"],
        typer.Option(
            envvar="VERSE_CPU_WEIGHTS",
            help="On a CPU, how the weights are kept; auto takes the fastest that fits.",
        ),
    ] = _ENGINE.cpu_weights,
    pipeline: Annotated[
        bool,
        typer.Option(
            "--pipeline",
            envvar="VERSE_PIPELINE",
            help="Under mlx.launch, give each machine whole layers, not a part of every one.",
        ),
    ] = _ENGINE.pipeline,
    no_wired_limit: Annotated[
        bool,
        typer.Option(
            "--no-wired-limit",
            envvar="VERSE_NO_WIRED_LIMIT",
            help="On macOS, do not pin the model in memory.",
        ),
    ] = not _ENGINE.wired_limit,
    no_poem_prompt: Annotated[
        bool,
        typer.Option(
            "--no-poem-prompt",
            envvar="VERSE_NO_POEM_PROMPT",
            help="Add no system message where none is recorded.",
        ),
    ] = not _ENGINE.poem_prompt,
    no_store: Annotated[
        bool,
        typer.Option(
            "--no-store",
            envvar="VERSE_NO_STORE",
            help="Keep no responses for conversations to go on from.",
        ),
    ] = not _SERVER.store,
    decisions: Annotated[
        Path | None,
        typer.Option(
            envvar="VERSE_DECISIONS",
            show_default="decisions.jsonl beside the adapters folder",
            help="The journal of verse curate that decisions on the page go to.",
        ),
    ] = None,
    no_decisions: Annotated[
        bool,
        typer.Option("--no-decisions", envvar="VERSE_NO_DECISIONS", help="Keep no decisions."),
    ] = False,
    api_key: Annotated[
        str | None,
        typer.Option(
            envvar="VERSE_API_KEY",
            show_default=False,
            help="The key clients must send; the variable hides it from the process list.",
        ),
    ] = _SERVER.api_key,
    cors_origin: Annotated[
        list[str] | None,
        typer.Option(
            envvar="VERSE_CORS_ORIGIN",
            show_default=False,
            help="A web page that may call the server, as https://host; repeat it, or * for all.",
        ),
    ] = None,
    allowed_host: Annotated[
        list[str] | None,
        typer.Option(
            envvar="VERSE_ALLOWED_HOST",
            show_default=False,
            help="A name besides localhost to be asked for by; repeat it, or * for any.",
        ),
    ] = None,
    jobs: Annotated[
        bool,
        typer.Option(
            "--jobs",
            envvar="VERSE_JOBS",
            help="Take files, train adapters and run batches for clients.",
        ),
    ] = _SERVER.jobs,
    release_base_while_training: Annotated[
        bool,
        typer.Option(
            "--release-base-while-training",
            envvar="VERSE_RELEASE_BASE_WHILE_TRAINING",
            help="Free the base model while a job trains; poems have to wait.",
        ),
    ] = _SERVER.release_base_while_training,
    state: Annotated[
        Path | None,
        typer.Option(
            envvar="VERSE_STATE",
            show_default="state beside the adapters",
            help="The folder for files and jobs.",
        ),
    ] = _SERVER.state,
) -> None:
    """Serve the base model and every adapter over an OpenAI-compatible API."""
    if api_key is not None and not api_key.strip():
        raise typer.BadParameter("the key is empty", param_hint="--api-key")
    if jobs and api_key is None and not is_loopback(host):
        raise typer.BadParameter(
            f"others could train on this machine through {host}; set --api-key too",
            param_hint="--jobs",
        )
    config = ServerConfig(
        engine=EngineConfig(
            model=model,
            adapters=_usual_adapters(jobs=jobs) if adapters is None else adapters,
            max_batch=max_batch,
            adapter_slots=adapter_slots,
            max_rank=max_rank,
            adapter_bytes=adapter_bytes,
            prefix_cache_bytes=prefix_cache_bytes,
            kv_cache_bytes=kv_cache_bytes,
            max_queue=max_queue,
            max_tokens=max_tokens,
            deadline_seconds=deadline_seconds,
            slow_client_seconds=slow_client_seconds,
            cpu_weights=cpu_weights,
            pipeline=pipeline,
            wired_limit=not no_wired_limit,
            poem_prompt=not no_poem_prompt,
        ),
        store=not no_store,
        host=host,
        port=port,
        api_key=api_key,
        cors_origins=tuple(cors_origin or ()),
        allowed_hosts=tuple(allowed_host or ()),
        jobs=jobs,
        state=state,
        release_base_while_training=release_base_while_training,
        decisions=None if no_decisions else decisions or _beside_adapters(adapters),
    )
    raise typer.Exit(_start_and_run(config))


def _usual_adapters(*, jobs: bool) -> Path:
    """Jobs write adapters, and nothing is written where Verse is installed."""
    return own("adapters") if jobs else found("adapters")


def _beside_adapters(adapters: Path | None) -> Path:
    """The journal, beside the folder that was named, or the user's own."""
    return (own("adapters") if adapters is None else adapters).absolute().parent / "decisions.jsonl"


def _start_and_run(config: ServerConfig) -> int:
    from verse.machines.launch import find_launch

    _set_up_logging()
    console = terminal.console()
    if (launch := find_launch()) is None:
        return _serve(config, console)
    from verse_server.ranks import run_rank

    return run_rank(config, launch, console, partial(_serve, config, console))


@contextmanager
def _uncollected() -> Generator[None]:
    """Look for no garbage while the server starts: what a start makes stays, and is much.

    `serving.run` begins to, once it has all that stays.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _serve(
    config: ServerConfig,
    console: "Console",
    start: Callable[..., Any] | None = None,
    lost: "LostRank | None" = None,
) -> int:
    """Serve until told to stop.

    Args:
        config: How.
        console: To say where.
        start: Starts the engine, in place of one that has the model alone.
        lost: To be told of an engine that may lose other ranks.
    """
    from verse_server.acceptor import bind
    from verse_server.banner import loading, show_ready

    with _uncollected(), bind(config.host, config.port) as sock, _open_state(config) as state:
        from verse_server.engine.engine import MlxEngine  # after bind: mlx takes its time

        with (
            _imported_meanwhile("verse_server.serving"),
            loading(console, config.engine.model) as on_progress,
        ):
            start_engine = partial(start or MlxEngine.start, config.engine)
            engine = _started(config, start_engine, on_progress)
        from verse_server.serving import run

        if lost is not None:
            lost.watch(engine)
        port = sock.getsockname()[1]
        show_ready(console, config, port, engine.base, engine.models(), engine.warnings)
        return run(engine, config, sock, state)


@contextmanager
def _imported_meanwhile(module: str) -> Generator[None]:
    """Import a third of a second of Python beside what seldom needs the interpreter."""
    thread = Thread(target=import_module, args=[module])
    thread.start()
    try:
        yield
    finally:
        thread.join()


def _started(config: ServerConfig, start: Any, on_progress: Callable[[float], None]) -> Any:
    """An engine; one that can let go of its base where it is to."""
    if not config.release_base_while_training:
        return start(on_progress)
    from verse_server.base_release import ReleasableEngine

    return ReleasableEngine(start, config.drain_seconds)


@contextmanager
def _open_state(config: ServerConfig) -> Generator["ServerState | None"]:
    """Before the model loads, so that a folder that cannot be used is heard of at once."""
    if not config.jobs:
        yield None
        return
    from verse_server.state.folder import ServerState

    config.engine.adapters.mkdir(parents=True, exist_ok=True)
    state = ServerState(config.state_folder)
    try:
        yield state
    finally:
        state.close()


def _set_up_logging() -> None:
    handler = terminal.PatientHandler()
    handler.setFormatter(terminal.ShownFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.getLogger("verse_server").setLevel(logging.INFO)
