"""A server of one's own, for a command that finds none running.

It is `verse serve` on a free port, in a process of its own. Clients import nothing of the server's:
they meet it over HTTP, here as everywhere, and what loads a model in the wrong way or runs out of
memory ends that process and not the command. The process ends with the command, also where that is
killed: it waits for the end of its standard input, which only the command holds open.
"""

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Generator
from contextlib import contextmanager, suppress
from typing import IO
from urllib.parse import urlsplit

from verse import UserError
from verse.cli import main

_MAIN = "import sys; from verse_clients.local_server import serve_while_held; serve_while_held()"
_ADDRESS = re.compile(r"\s*address\s+(http://\S+/v1)")
_CONNECT_SECONDS = 5.0
_STOP_SECONDS = 15.0
"""For what it still does; nobody waits for it any more."""
_NOT_FOR_A_CHILD = ("VERSE_API_KEY", "VERSE_HOST", "VERSE_PORT")


def is_listening(base_url: str) -> bool:
    """Whether anything answers at an address."""
    parts = urlsplit(base_url)
    with suppress(OSError):
        socket.create_connection((parts.hostname or "", parts.port or 80), _CONNECT_SECONDS).close()
        return True
    return False


class LocalServerError(UserError):
    """It could not start; in its own words."""


@contextmanager
def local_server(*flags: str) -> Generator[str]:
    """Run a server for as long as the block runs.

    Args:
        flags: Of `verse serve`; its address and port are given here.

    Yields:
        Where its API is.

    Raises:
        LocalServerError: it could not start.
    """
    command = [sys.executable, "-c", _MAIN, *flags, "--host", "127.0.0.1", "--port", "0"]
    env = {name: value for name, value in os.environ.items() if name not in _NOT_FOR_A_CHILD}
    with tempfile.TemporaryFile() as log:
        child = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            env={**env, "COLUMNS": "200"},
            start_new_session=True,  # Ctrl-C is for the command, which then ends it
        )
        try:
            yield _address(child, log)
        finally:
            _stop(child)


def serve_while_held() -> None:
    """What the child runs: a server until nobody holds its standard input open."""
    threading.Thread(target=_end_with_the_command, daemon=True).start()
    sys.exit(main(["serve", *sys.argv[1:]]))


def _end_with_the_command() -> None:
    while os.read(sys.stdin.fileno(), 1):  # not through a buffer, whose lock would outlive us
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def _address(child: "subprocess.Popen[bytes]", log: IO[bytes]) -> str:
    assert child.stdout is not None
    for line in child.stdout:
        if found := _ADDRESS.match(line.decode(errors="replace")):
            return found[1]
    child.wait()
    log.seek(0)
    said = log.read().decode(errors="replace").strip().splitlines()
    raise LocalServerError(said[-1] if said else f"The server ended with {child.returncode}.")


def _stop(child: "subprocess.Popen[bytes]") -> None:
    assert child.stdin is not None
    assert child.stdout is not None
    with suppress(OSError):
        child.stdin.close()
    try:
        child.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
    finally:
        child.stdout.close()
