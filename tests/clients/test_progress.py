"""The live line: a bar on a terminal, silence where there is none."""

import io

import pytest
from rich.console import Console

from verse.records import Candidate
from verse_clients.generate.summary import RunTally
from verse_clients.progress import LiveLine, RunProgress, duration


@pytest.mark.parametrize("is_terminal", [True, False])
def test_it_is_shown_on_a_terminal_alone(is_terminal: bool) -> None:
    written = io.StringIO()
    console = Console(file=written, force_terminal=is_terminal, width=80)
    with LiveLine(console, lambda: RunProgress(3, 7, "5 poems/h")):
        console.print("a line above")
    assert "a line above" in written.getvalue()
    assert ("3/7" in written.getvalue()) is is_terminal
    assert ("5 poems/h" in written.getvalue()) is is_terminal


def test_the_figures_of_a_run_that_writes() -> None:
    tally = RunTally(total=5, already=1, begun=100.0)
    assert tally.progress(110.0) == RunProgress(
        1, 5, "0 poems/h, 0 tokens/s, 0 duplicates, 0 copies"
    )
    tally.count(Candidate(theme="河", text="水", completion_tokens=20, duplicate_of="x"))
    tally.failed = 1
    assert tally.progress(110.0) == RunProgress(
        2, 5, "360 poems/h, 2 tokens/s, 1 duplicate, 0 copies, 1 failed, 0:20 left"
    )


def test_how_long_something_takes() -> None:
    assert [duration(n) for n in (0, 42, 725, 12000)] == ["0:00", "0:42", "12:05", "3:20:00"]
