"""What the header of a weights file says, and that a monstrous one is never parsed."""

import json
import os
import struct
from pathlib import Path
from typing import Any

import msgspec
import pytest

from verse.adapter_config import MlxConfig
from verse.adapter_files import AdapterFileError, plan_adapter
from verse.safetensors_header import (
    MAX_HEADER_BYTES,
    MAX_TENSORS,
    SafetensorsHeaderError,
    read_header,
    whole_bytes,
)

EMPTY = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}


def write(file: Path, entries: dict[str, Any], data: bytes = b"") -> Path:
    header = json.dumps(entries).encode()
    file.write_bytes(struct.pack("<Q", len(header)) + header + data)
    return file


def entry(dtype: str = "F32", shape: tuple[int, ...] = (2,), end: int = 8) -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [0, end]}


def test_the_tensors_of_a_file_and_where_they_begin(tmp_path: Path) -> None:
    file = write(tmp_path / "w.safetensors", {"__metadata__": {"a": "b"}, "x": entry()}, bytes(8))
    header = read_header(file)
    assert list(header.tensors) == ["x"]
    assert header.tensors["x"].dtype == "F32"
    assert header.tensors["x"].shape == (2,)
    assert file.read_bytes()[header.data_start :] == bytes(8)


@pytest.mark.parametrize("metadata", [None, {"a": "b"}, {"data_offsets": "none"}])
def test_how_long_a_file_should_be_is_told_by_its_tensors(tmp_path: Path, metadata: object) -> None:
    file = write(tmp_path / "w.safetensors", {"__metadata__": metadata, "x": entry()}, bytes(8))
    size = file.stat().st_size
    assert whole_bytes(file) == size
    os.truncate(file, size - 3)
    assert whole_bytes(file) == size
    os.truncate(file, 20)
    with pytest.raises(ValueError, match="the header is cut off"):
        whole_bytes(file)


@pytest.mark.parametrize(
    "wrong",
    [
        entry(shape=(3,)),
        entry(shape=(-1, -2)),
        entry(dtype="F16"),
        {"dtype": "F32", "shape": [1], "data_offsets": [-4, 0]},
        {"dtype": "F32", "shape": [1], "data_offsets": [8, 4]},
        entry(shape=(1,) * 9, end=4),
    ],
)
def test_bytes_that_are_not_those_of_shape_and_type(tmp_path: Path, wrong: Any) -> None:
    file = write(tmp_path / "w.safetensors", {"whole": entry(), "x": wrong}, bytes(8))
    with pytest.raises(SafetensorsHeaderError, match="the bytes of x are not those of its shape"):
        read_header(file)


@pytest.mark.parametrize(
    ("entries", "found"),
    [
        ({f"t{number}": EMPTY for number in range(MAX_TENSORS + 1)}, "16,385 tensors"),
        ({"__metadata__": {"notes": "x" * MAX_HEADER_BYTES}}, r"4,194,\d+ bytes of header"),
    ],
    ids=["tensors", "bytes"],
)
def test_a_monstrous_header_is_refused_with_the_figures_before_it_is_parsed(
    tmp_path: Path, entries: dict[str, Any], found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(tmp_path / "adapters.safetensors", entries)

    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("it was parsed")

    monkeypatch.setattr(msgspec.json, "decode", never)
    with pytest.raises(AdapterFileError, match=rf"^adapters\.safetensors has {found}, and .*alone"):
        plan_adapter(file, MlxConfig(), {})


def test_as_many_tensors_as_an_adapter_may_have_are_read(tmp_path: Path) -> None:
    entries = {f"t{number}": EMPTY for number in range(MAX_TENSORS)}
    assert len(read_header(write(tmp_path / "w.safetensors", entries)).tensors) == MAX_TENSORS


def test_every_way_of_not_being_whole_is_one_sentence(tmp_path: Path) -> None:
    whole = write(tmp_path / "w.safetensors", {"x": entry()}, bytes(8)).read_bytes()
    for data in (b"", whole[:5], whole[:30], whole[:-1], whole + b"\0"):
        (tmp_path / "cut.safetensors").write_bytes(data)
        with pytest.raises(
            SafetensorsHeaderError, match=r"^cut\.safetensors is not a whole .*again"
        ):
            read_header(tmp_path / "cut.safetensors")
    with pytest.raises(SafetensorsHeaderError, match="is not a whole"):
        read_header(tmp_path / "missing.safetensors")
