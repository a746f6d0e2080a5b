import os
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from verse import jsonl
from verse.jsonl import JsonlError, TornLineError
from verse.records import Poem

DECODER = msgspec.json.Decoder(Poem)
RIVER = Poem(theme="河", text="河水流过\n我的窗前")
RAIN = Poem(theme="雨", text="雨落在\n  没有名字的街上")
SNOW = Poem(theme="雪", text="雪")

# Lone surrogates are the one thing that JSON in UTF-8 cannot hold.
texts = st.text(st.characters(exclude_categories=["Cs"]))
poems = st.builds(Poem, theme=texts, text=texts)
in_one_folder = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "poems.jsonl"


def test_what_is_appended_is_read_back(file: Path) -> None:
    jsonl.append(file, RIVER)
    jsonl.append(file, RAIN, SNOW)
    assert jsonl.read(file, DECODER) == [RIVER, RAIN, SNOW]


@in_one_folder
@given(st.lists(poems, max_size=4))
def test_any_text_survives(file: Path, records: list[Poem]) -> None:
    jsonl.rewrite(file, [])
    jsonl.append(file, *records)
    assert jsonl.read(file, DECODER) == records


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b'{"theme": "x"}', "Object missing required field `text`"),
        (b'{"theme": "x", "text": 3}', "Expected `str`, got `int` - at `$.text`"),
        (b'{"theme": "x", "text"}', "JSON is malformed"),
        (b"not json", "JSON is malformed"),
        (b'{"theme": "x", "text": "\xff"}', "UTF-8"),
        (b"[]", "Expected `object`, got `array`"),
    ],
)
def test_an_error_names_file_line_and_what_is_wrong(file: Path, line: bytes, problem: str) -> None:
    file.write_bytes(msgspec.json.encode(RIVER) + b"\n\n" + line + b"\n")
    with pytest.raises(JsonlError) as caught:
        jsonl.read(file, DECODER)
    assert str(caught.value).startswith(f"{file}:3: ")
    assert problem.lower() in str(caught.value).lower()
    assert not isinstance(caught.value, TornLineError)


def test_scan_goes_on_after_a_bad_line(file: Path) -> None:
    jsonl.append(file, RIVER)
    file.write_bytes(file.read_bytes() + b"{}\n")
    jsonl.append(file, RAIN)
    (_, first), (number, bad), (_, last) = jsonl.scan(file, DECODER)
    assert (first, last) == (RIVER, RAIN)
    assert number == 2
    assert isinstance(bad, JsonlError)


def test_files_written_by_hand_are_read(file: Path) -> None:
    file.write_bytes(
        b'\xef\xbb\xbf{"theme": "a", "text": "b"}\r\n\r\n  \n{"theme": "c", "text": "d"}'
    )
    assert [poem.theme for poem in jsonl.read(file, DECODER)] == ["a", "c"]


@pytest.mark.parametrize("tail", [b"", b"  ", b"\n", b" \r\n"])
def test_appending_to_a_file_without_a_last_line_end_starts_a_line(file: Path, tail: bytes) -> None:
    file.write_bytes(b'\xef\xbb\xbf{"theme": "a", "text": "b"}' + tail)
    jsonl.append(file, RAIN)
    assert [poem.theme for poem in jsonl.read(file, DECODER)] == ["a", "雨"]


def test_fields_unknown_to_this_version_are_passed_over(file: Path) -> None:
    file.write_bytes(b'{"theme": "a", "text": "b", "mood": "c"}\n')
    assert jsonl.read(file, DECODER) == [Poem(theme="a", text="b")]


@in_one_folder
@given(st.lists(poems, min_size=1, max_size=4), st.data())
def test_a_cut_at_any_byte_costs_at_most_the_record_it_goes_through(
    file: Path, records: list[Poem], data: st.DataObject
) -> None:
    aside = file.with_name("poems.jsonl.torn")
    aside.unlink(missing_ok=True)
    jsonl.rewrite(file, records)
    whole = file.read_bytes()
    cut = data.draw(st.integers(0, len(whole)))
    file.write_bytes(whole[:cut])
    num_ended = whole[:cut].count(b"\n")

    moved = jsonl.set_torn_line_aside(file)
    left = jsonl.read(file, DECODER)
    assert left in (records[:num_ended], records[: num_ended + 1])
    # Nothing is dropped: both files together are the bytes that were there.
    kept = file.read_bytes() + (aside.read_bytes()[:-1] if moved else b"")
    assert kept == whole[:cut]

    jsonl.append(file, SNOW)
    assert jsonl.read(file, DECODER) == [*left, SNOW]


def test_a_torn_line_stops_reading_and_appending_until_it_is_set_aside(file: Path) -> None:
    jsonl.append(file, RIVER)
    with file.open("ab") as stream:
        stream.write(b'{"theme": "\xe9\x9b')
    before = file.read_bytes()
    with pytest.raises(TornLineError, match=r"poems\.jsonl:2: "):
        jsonl.read(file, DECODER)
    with pytest.raises(TornLineError, match=r"poems\.jsonl:2: "):
        jsonl.append(file, RAIN)
    assert file.read_bytes() == before

    assert jsonl.set_torn_line_aside(file) == file.with_name("poems.jsonl.torn")
    jsonl.append(file, RAIN)
    assert jsonl.read(file, DECODER) == [RIVER, RAIN]
    assert jsonl.set_torn_line_aside(file) is None


def test_a_tail_of_zeros_after_a_power_cut_is_torn(file: Path) -> None:
    jsonl.append(file, RIVER)
    with file.open("ab") as stream:
        stream.write(b"\0" * 200_000)
    assert jsonl.set_torn_line_aside(file)
    assert jsonl.read(file, DECODER) == [RIVER]


def test_torn_lines_gather_in_one_file(file: Path) -> None:
    for torn in (b'{"the', b'{"them'):
        with file.open("ab") as stream:
            stream.write(torn)
        aside = jsonl.set_torn_line_aside(file)
    assert aside is not None
    assert aside.read_bytes() == b'{"the\n{"them\n'


def test_a_full_disk_leaves_the_file_as_it_was_and_the_record_can_be_written_later(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_write = os.write

    def half(handle: int, data: bytes) -> int:
        if len(data) < 20:
            raise OSError(28, "No space left on device")
        return real_write(handle, data[:10])

    jsonl.append(file, RIVER)
    before = file.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", half)
        with pytest.raises(OSError, match="No space"):
            jsonl.append(file, RAIN)
    assert file.read_bytes() == before
    jsonl.append(file, RAIN)
    assert jsonl.read(file, DECODER) == [RIVER, RAIN]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a file of Linux")
def test_what_a_disk_refused_first_is_told_even_if_it_takes_nothing_back() -> None:
    with pytest.raises(OSError, match="No space left on device"):
        jsonl.append(Path("/dev/full"), RIVER)


def test_append_syncs_before_it_returns(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    def record(handle: int) -> None:
        sizes.append(os.fstat(handle).st_size)

    jsonl.append(file, RIVER)
    monkeypatch.setattr(os, "fsync", record)
    jsonl.append(file, RAIN)
    assert sizes == [file.stat().st_size]


def test_a_rewrite_that_fails_in_between_leaves_the_old_records(file: Path) -> None:
    def records() -> Iterator[Poem]:
        yield SNOW
        raise KeyboardInterrupt

    jsonl.append(file, RIVER, RAIN)
    with pytest.raises(KeyboardInterrupt):
        jsonl.rewrite(file, records())
    assert jsonl.read(file, DECODER) == [RIVER, RAIN]
    assert [entry.name for entry in file.parent.iterdir()] == ["poems.jsonl"]


def test_a_missing_file_is_the_callers_affair(file: Path) -> None:
    with pytest.raises(FileNotFoundError):
        jsonl.read(file, DECODER)
