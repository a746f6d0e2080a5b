"""Train on several machines: `mlx.launch` starts a training process on each, and we show rank 0's.

The launcher hands our input to all of them, so a line of it asks all to save and stop. Their output
comes as one: the first rank's messages, a line of JSON each, and whatever libraries and ssh print,
which is passed on. What became of a rank that never began only the launcher knows, so what it
complains of is read as well.
"""

import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgspec

from verse.machines import MachinesError
from verse.machines.launcher import (
    THIS_MACHINE,
    Hostfile,
    end_session,
    explain,
    is_complaint,
    launch_command,
    read_hostfile,
)
from verse.terminal import show
from verse_trainer.events import (
    Failed,
    TrainMessage,
    TrainRequest,
    decode_message,
)
from verse_trainer.supervise import Ending, Stopper, signals_to

_REQUEST_VARIABLE = "VERSE_TRAIN_REQUEST"
_PROGRAM = (sys.executable, "-m", "verse_trainer.child")
_STOP = b"stop\n"
_READING_SECONDS = 10.0
"""Somebody else may have the launcher's standard error, too, and keep it open."""


class Complaints:
    """What the launcher says on its standard error; what others say there is passed on."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        """Begin to read."""
        self._process = process
        self.lines: list[str] = []
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            text = line.decode(errors="replace").rstrip()
            if is_complaint(text):
                self.lines.append(text)
            elif text:
                show(text, stderr=True)

    def wait(self) -> None:
        """Until all is read of a launcher that has ended; afterwards its pipe may be closed."""
        self._thread.join(_READING_SECONDS)

    def reason(self, hostfile: Hostfile) -> str | None:
        """Why it ended, in a sentence; None if it has nothing to complain of."""
        known = [explain(line, hostfile) for line in self.lines]
        if not known:
            return None
        return next(filter(None, known), "A machine ended before its time; its output says why.")


def supervise_launcher(
    request: TrainRequest,
    on_message: Callable[[TrainMessage], None],
    file: Path,
    starting_port: int,
) -> Ending:
    """Run one request on the machines of a hostfile, to its end, and leave no process behind.

    Must be called from the main thread, which is the one that gets signals.

    Args:
        request: What to do; the same on all.
        on_message: Called with every message of rank 0, in order, from this thread.
        file: The hostfile.
        starting_port: Of the first rank.

    Raises:
        MachinesError: the hostfile is wrong, or a machine did not begin.
    """
    hostfile = read_hostfile(file)
    if shutil.which("ssh") is None and any(host.ssh != THIS_MACHINE for host in hostfile.hosts):
        raise MachinesError("ssh is not installed here, and mlx.launch starts the ranks with it.")
    env = {_REQUEST_VARIABLE: msgspec.json.encode(request).decode()}
    command = launch_command(file, _PROGRAM, starting_port=starting_port, env=env)
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, stdin=pipe, stdout=pipe, stderr=pipe, start_new_session=True
    ) as process:
        complaints = Complaints(process)
        stopper = Stopper(lambda: _ask_to_stop(process), lambda: end_session(process))
        try:
            with signals_to(stopper):
                has_failed = _pass_on(process, on_message)
                exit_code = process.wait()
        except BaseException:
            _ask_to_stop(process)
            with suppress(subprocess.TimeoutExpired):
                process.wait(_SAVING_SECONDS)
            raise
        finally:
            end_session(process)
            complaints.wait()
    reason = complaints.reason(hostfile)
    if reason is not None and not has_failed and stopper.stopped_by is None:
        raise MachinesError(reason)
    return Ending(exit_code=exit_code, stopped_by=stopper.stopped_by, killed=stopper.killed)


_SAVING_SECONDS = 60.0


def _ask_to_stop(process: "subprocess.Popen[bytes]") -> None:
    assert process.stdin is not None
    with suppress(OSError):
        process.stdin.write(_STOP)
        process.stdin.flush()


def _pass_on(
    process: "subprocess.Popen[bytes]", on_message: Callable[[TrainMessage], None]
) -> bool:
    """Until the end of the output; whether the last word was a mistake."""
    assert process.stdout is not None
    has_failed = False
    for line in process.stdout:
        try:
            message = decode_message(line.strip())
        except (msgspec.DecodeError, UnicodeDecodeError):
            show(line.decode(errors="replace").rstrip(), stderr=True)
            continue
        has_failed = has_failed or isinstance(message, Failed)
        on_message(message)
    return has_failed
