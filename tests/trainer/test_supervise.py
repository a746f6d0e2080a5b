"""The two processes of a run, with a program in place of the one that trains."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from verse_trainer.config import TrainConfig
from verse_trainer.events import Loading, Saved, TrainMessage, TrainRequest
from verse_trainer.supervise import Ending, supervise

ORDER = TrainRequest(config=TrainConfig(batch_size=3))


def program(text: str) -> list[str]:
    head = "import os, signal, sys, time\nfrom verse_trainer.events import *\n"
    tell = "def tell(message): print(msgspec.json.encode(message).decode(), flush=True)\n"
    return [sys.executable, "-c", head + tell + textwrap.dedent(text)]


def run(text: str) -> tuple[Ending, list[TrainMessage]]:
    seen: list[TrainMessage] = []
    return supervise(ORDER, seen.append, program(text)), seen


def test_the_order_goes_in_and_the_messages_come_out_in_order() -> None:
    ending, seen = run(
        """
        order = msgspec.json.decode(sys.stdin.readline(), type=TrainRequest)
        for share in range(order.config.batch_size):
            tell(Loading(share=share))
        """
    )
    assert ending == Ending(exit_code=0)
    assert seen == [Loading(share=0), Loading(share=1), Loading(share=2)]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGABRT])
def test_a_death_by_signal_is_reported(number: signal.Signals) -> None:
    ending, seen = run(f"tell(Loading(share=1)); os.kill(os.getpid(), {int(number)})")
    assert ending.exit_code == -number
    assert seen == [Loading(share=1)]


def test_a_program_that_dies_before_it_reads_is_reported() -> None:
    assert run("os._exit(3)")[0].exit_code == 3


SAVES_ON_TERM = """
def save(*_):
    tell(Saved(step=7, path="x"))
    sys.exit(0)
signal.signal(signal.SIGTERM, save)
signal.signal(signal.SIGINT, lambda *_: os._exit(77))
tell(Loading(share=1))
time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_stop_is_passed_on_and_what_was_saved_is_heard(number: signal.Signals) -> None:
    seen: list[TrainMessage] = []

    def stop_when_it_is_up(message: TrainMessage) -> None:
        seen.append(message)
        if isinstance(message, Loading):
            os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    code = "from verse_trainer.events import Saved\n" + SAVES_ON_TERM
    ending = supervise(ORDER, stop_when_it_is_up, program(code))
    assert ending == Ending(exit_code=0, stopped_by=number)
    assert seen[-1] == Saved(step=7, path="x")
    assert signal.getsignal(number) == before


def test_a_second_ctrl_c_kills() -> None:
    def press(_message: TrainMessage) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    deaf = """
    signal.signal(signal.SIGTERM, lambda *_: tell(Loading(share=2)))  # it heard the first one
    tell(Loading(share=1))
    while True:
        time.sleep(60)
    """
    ending = supervise(ORDER, press, program(deaf))
    assert ending == Ending(exit_code=-9, stopped_by=signal.SIGINT, killed=True)


def test_a_listener_that_fails_leaves_no_process_behind() -> None:
    processes: list[int] = []

    def fail(message: TrainMessage) -> None:
        assert isinstance(message, Loading)
        processes.append(int(message.share))
        raise RuntimeError("the view broke")

    with pytest.raises(RuntimeError, match="the view broke"):
        supervise(ORDER, fail, program("tell(Loading(share=os.getpid())); time.sleep(60)"))
    with pytest.raises(ProcessLookupError):
        os.kill(processes[0], 0)


def test_the_other_process_hears_when_this_one_is_killed(tmp_path: Path) -> None:
    """What it hears is the end of its input."""
    child = program(
        f"""
        tell(Loading(share=1))
        sys.stdin.read()
        open({str(tmp_path / "heard")!r}, "w").close()
        """
    )
    code = (
        "from verse_trainer.config import TrainConfig\n"
        "from verse_trainer.events import TrainRequest\n"
        "from verse_trainer.supervise import supervise\n"
        "request = TrainRequest(config=TrainConfig())\n"
        f"supervise(request, lambda m: print('up', flush=True), {child!r})\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"up\n"
        parent.kill()
    deadline = time.monotonic() + 60
    while not (tmp_path / "heard").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
