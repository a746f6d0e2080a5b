"""Nothing foreign takes the terminal over: escapes, controls and bidi controls become codes."""

import io
import json
import logging
import os
import re
import select
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.panel import Panel
from rich.progress import Progress, TextColumn
from rich.table import Table
from rich.text import Text

from verse import terminal
from verse.terminal import (
    PatientHandler,
    ShownFormatter,
    console,
    show,
    show_json,
    show_line,
    show_parts,
    shown,
)

Capture = pytest.CaptureFixture[str]

HOSTILE = "a\x1b[2Jb\x9b31mc\u202ed\u2066e\x07\rf\x7fg\u2028h"
CODES = "a\\u001b[2Jb\\u009b31mc\\u202ed\\u2066e\\u0007\\u000df\\u007fg\\u2028h"
_ALSO = "\u061c\u200e\u200f" + "".join(map(chr, range(0x206A, 0x2070)))
"""Weak bidi marks, and controls that Unicode has withdrawn."""
REPOSITORY = Path(__file__).parents[2]
HELD = 1 << 16
"""Bytes that a pipe holds on Linux, or more than it holds."""


def is_harmful(char: str) -> bool:
    """What a terminal obeys, by the Unicode database rather than by a list."""
    if char in "\n\t":
        return False
    bidi = unicodedata.bidirectional(char)
    return unicodedata.category(char) in ("Cc", "Zl", "Zp") or bidi in (
        *("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"),
    )


def test_codes_stand_for_what_a_terminal_obeys() -> None:
    assert shown(HOSTILE) == CODES
    assert shown("雨\r\n\t落 ❤ e\u0301") == "雨\n\t落 ❤ e\u0301"


@given(st.text())
def test_no_harmful_character_is_left(text: str) -> None:
    result = shown(text)
    assert not any(map(is_harmful, result))
    assert shown(result) == result


@given(st.characters(exclude_characters=_ALSO))
def test_no_other_character_is_touched(char: str) -> None:
    assert shown(char) == (f"\\u{ord(char):04x}" if is_harmful(char) else char)


def test_every_bidi_control_of_the_unicode_standard_is_among_them() -> None:
    controls = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
    assert shown(controls) == "".join(f"\\u{ord(char):04x}" for char in controls)


def test_a_line_is_printed_to_either_stream(capsys: Capture) -> None:
    show(HOSTILE)
    show(HOSTILE, stderr=True)
    assert tuple(capsys.readouterr()) == (f"{CODES}\n", f"{CODES}\n")


def test_json_says_the_same_as_before(capsys: Capture) -> None:
    show_json({HOSTILE: [HOSTILE, Path("a\x9b")]})
    out = capsys.readouterr().out
    assert not any(map(is_harmful, out))
    assert json.loads(out) == {HOSTILE: [HOSTILE, "a\x9b"]}


def test_strings_texts_and_borders_are_all_safe(capsys: Capture) -> None:
    table = Table(HOSTILE, title=HOSTILE, caption=Text(HOSTILE))
    table.add_column(Text(HOSTILE))
    table.add_row(HOSTILE, Text(HOSTILE, "bold"))
    show_parts([table, Panel(HOSTILE, title=HOSTILE), HOSTILE, Text(HOSTILE)])
    out = capsys.readouterr().out
    assert not any(map(is_harmful, out))
    assert out.count("\\u001b[2Jb") >= 4


def test_a_live_line_keeps_its_own_escapes_and_no_others() -> None:
    stream = io.StringIO()
    out = console(file=stream, force_terminal=True, width=100, color_system=None)
    with Progress(TextColumn("{task.description}"), console=out, transient=True) as progress:
        progress.add_task(HOSTILE, total=1)
        show_line(out, HOSTILE)
    written = stream.getvalue()
    assert CODES in written
    assert not set(re.findall(r"\x1b\[[^A-Za-z]*[A-Za-z]", written)) & {"\x1b[2J", "\x1b[31m"}
    assert "\x9b" not in written
    assert "\u202e" not in written


def test_brackets_colons_and_numbers_are_text(capsys: Capture) -> None:
    table = Table("[bold]a[/]")
    table.add_row("[red]:heart: 5[/red]")
    show_parts([table, "[red]:heart:[/red]"])
    out = capsys.readouterr().out
    assert "[bold]a[/]" in out
    assert out.count("[red]:heart:") == 2


def test_a_log_line_is_safe() -> None:
    record = logging.LogRecord("verse", logging.INFO, "", 0, "asked for %s", (HOSTILE,), None)
    assert ShownFormatter("%(message)s").format(record) == f"asked for {CODES}"


@pytest.mark.parametrize("package", ["core", "server", "trainer", "clients"])
def test_nothing_else_in_the_product_writes_to_the_terminal(package: str) -> None:
    writes = re.compile(
        r"(?<![\w.\"'`])print\(|\bConsole\(|typer\.s?echo\(|sys\.std(out|err)\.write\(|"
        r"logging\.Formatter\(|from rich import print|rich\.print\("
    )
    found = [
        f"{file.relative_to(REPOSITORY)}:{number}: {line.strip()}"
        for file in sorted((REPOSITORY / package).rglob("*.py"))
        for number, line in enumerate(file.read_text("utf-8").splitlines(), 1)
        if file.name != "terminal.py" and writes.search(line.partition("#")[0])
    ]
    assert found == []


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """Its two ends; it is full after a few lines."""
    read, write = os.pipe()
    os.set_blocking(read, False)
    held = os.write(write, b"." * (HELD - 100))
    yield read, write
    assert held == HELD - 100
    os.close(read)
    os.close(write)


def log(handler: PatientHandler, text: str, level: int = logging.INFO) -> None:
    handler.handle(logging.LogRecord("poems", level, "", 0, text, None, None))


def read_lines(descriptor: int, last: str) -> list[str]:
    """All lines up to one, waited for."""
    text = b""
    while not text.endswith(f"{last}\n".encode()):
        assert select.select([descriptor], [], [], 60)[0]
        text += os.read(descriptor, 1 << 20)
    return text.decode().lstrip(".").splitlines()


def test_who_logs_does_not_wait_for_a_reader(pipe: tuple[int, int]) -> None:
    read, write = pipe
    handler, lines = PatientHandler(write), [f"poem {number}" for number in range(50)]
    for line in lines:
        log(handler, line)
    assert read_lines(read, lines[-1]) == lines


def test_a_log_that_is_not_read_leaves_lines_out_and_says_so(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(terminal, "_MAX_WAITING_LINES", 20)
    read, write = pipe
    handler, num_lines = PatientHandler(write), 1000
    for number in range(num_lines):
        log(handler, f"poem {number}")
    assert os.read(read, HELD).startswith(b".")  # now there is room for all that waits
    monkeypatch.setattr(terminal, "_MAX_WAITING_LINES", 100)
    log(handler, "the last")
    *kept, left_out, _ = read_lines(read, "the last")
    assert len(kept) < 100
    assert kept[-1] == f"poem {num_lines - int(left_out.split()[0]) - 1}"
    assert left_out.endswith(" lines left out here")


def test_a_warning_is_written_when_it_has_been_logged(tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as file:
        log(PatientHandler(file.fileno()), "the end", logging.WARNING)
        assert (tmp_path / "log").read_text() == "the end\n"


def test_a_log_that_is_gone_harms_nobody() -> None:
    read, write = os.pipe()
    os.close(read)
    log(PatientHandler(write), "the end", logging.WARNING)
    os.close(write)
