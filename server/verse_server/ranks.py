"""`verse serve` as one of several ranks, started by `mlx.launch`: the first one serves HTTP.

    rank 0     binds, loads its part, serves; at the end it closes the others
    rank k     loads its part and follows, without a word

`mlx.launch` that is killed leaves its ranks behind; they notice, and end as if they were asked to.

A rank that dies ends all: rank 0's clients get the reason at the end of their streams, `/health` is
503, and the process ends with a code that is not 0, a few seconds later at most.
"""

import os
import select
import signal
import stat
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

from rich.console import Console

from verse import UserError
from verse.machines import MachinesError, TurnedAwayError
from verse.machines.launch import Launch
from verse.machines.meeting import meet, versions
from verse.machines.ranks import MISTAKE, Ranks
from verse.terminal import show_line
from verse_server.config import ServerConfig

_FAREWELL_SECONDS = 7.0
"""For answers to end with their error once a rank is gone; all is to be over within ten seconds."""
_INPUT_BYTES = 4096
_STOP_SECONDS = 10.0
"""How long another rank asked to stop waits for the first one, beyond the time for draining."""


class LostRank:
    """What becomes of a server one of whose ranks is gone."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._served = threading.Event()
        self._abandon: Callable[[str], None] | None = None

    def tell(self, reason: str) -> None:
        """Say why, and let the answers end; from the thread that noticed."""
        show_line(self._console, f"Error: {reason}")
        if self._abandon is not None:
            self._abandon(reason)
            self._served.wait(_FAREWELL_SECONDS)

    def watch(self, engine: Any) -> None:
        """From now on there is an engine, with clients."""
        self._abandon = engine.abandon

    def end(self) -> None:
        """The server has said all that there was to say."""
        self._served.set()


def run_rank(
    config: ServerConfig,
    launch: Launch,
    console: Console,
    serve: Callable[[Callable[..., Any], LostRank], int],
) -> int:
    """Be one of several ranks; the exit code.

    Args:
        config: The same on all ranks.
        launch: Which one this is.
        console: To say why all ends.
        serve: What a server alone does, with how an engine is started; and told of lost ranks.

    Raises:
        UserError: the ranks cannot serve together; one sentence, on rank 0.
    """
    if config.jobs or config.release_base_while_training:
        if launch.rank > 0:
            return MISTAKE  # rank 0 tells the user
        raise MachinesError("A server on several machines does not train; leave --jobs out.")
    lost = LostRank(console)
    try:
        ranks = meet(launch, versions(), on_failure=lost.tell)
    except TurnedAwayError:
        return MISTAKE  # rank 0 tells the user
    _end_with_launcher()
    try:
        with ranks:
            if not ranks.is_first:
                return _follow(config, ranks)
            return _lead(ranks, lost, serve)
    except UserError:
        if ranks.told:
            return MISTAKE
        raise


def _lead(
    ranks: Ranks, lost: LostRank, serve: Callable[[Callable[..., Any], LostRank], int]
) -> int:
    from verse_server.engine.engine import MlxEngine

    code = serve(partial(MlxEngine.start, ranks=ranks), lost)
    lost.end()
    if code:
        # The engine's thread may be inside mlx for good, which would keep the process from ending;
        # the others notice that this one is gone.
        os._exit(code)
    return code


def _follow(config: ServerConfig, ranks: Ranks) -> int:
    from verse_server.engine.followers import follow

    _stop_with_rank_0(config, ranks)
    follow(config.engine, ranks)
    return 0


def _end_with_launcher() -> None:
    """The launcher holds the other end of our standard input, and nobody else ends us."""
    try:
        is_held = stat.S_ISFIFO(os.fstat(0).st_mode)
        if is_held and select.select([0], [], [], 0)[0]:
            is_held = os.read(0, _INPUT_BYTES) != b""
    except OSError:
        return
    if is_held:
        threading.Thread(target=_wait_for_end, daemon=True).start()


def _wait_for_end() -> None:
    while os.read(0, _INPUT_BYTES):  # what is typed is for nobody
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def _stop_with_rank_0(config: ServerConfig, ranks: Ranks) -> None:
    """Ctrl-C and launchers reach all ranks at once, and rank 0 has poems to finish."""

    def stop(number: int, _frame: object) -> None:
        def end() -> None:
            ranks.quit()
            os._exit(128 + number)

        limit = threading.Timer(config.drain_seconds + _STOP_SECONDS, end)
        limit.daemon = True
        limit.start()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
