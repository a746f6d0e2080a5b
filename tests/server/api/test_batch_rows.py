"""A batch's file is read line by line, whatever is in it."""

import json
from pathlib import Path

from verse_server.api.batch_rows import MAX_ROWS, Line, checked, lines

CHAT = "/v1/chat/completions"


def line(number: int) -> bytes:
    row = {"custom_id": str(number), "method": "POST", "url": CHAT, "body": {"model": "base"}}
    return json.dumps(row).encode()


def test_lines_keep_their_numbers_and_a_long_one_is_read_over(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_bytes(b"a\r\n\n  \n" + b"x" * 5000 + b"\nb\n" + b"y" * 20)
    found = list(lines(file, 20))
    assert [entry.number for entry in found] == [1, 4, 5, 6]
    assert [entry.text.strip() for entry in found[:1] + found[2:]] == [b"a", b"b", b"y" * 20]
    assert len(found[1].text) < 30
    (problem,) = checked([found[1]], CHAT, 20).problems
    assert (problem.code, problem.line) == ("line_too_long", 4)


def test_a_file_has_only_so_many_requests() -> None:
    found = checked((Line(n, line(n)) for n in range(1, MAX_ROWS + 2)), CHAT, 1 << 20)
    assert [problem.code for problem in found.problems] == ["too_many_requests"]


def test_problems_are_told_up_to_a_number() -> None:
    found = checked((Line(n, b"{") for n in range(1, 1000)), CHAT, 1 << 20)
    assert len(found.problems) == 100
