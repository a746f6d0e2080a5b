"""The header of a safetensors file: which tensors it holds and where. No tensor is read.

The file begins with eight bytes of length and so much JSON. Both its bytes and its tensors are
counted before it is parsed: 60 MB of empty tensors would hold the interpreter for half a minute,
and every running poem with it. The largest adapter of Linear layers there is has 3000 tensors.

Read, not mapped: somebody may be rewriting the file in place, and touching a mapped page that has
been cut off ends the process. So the safetensors library cannot be used here.
"""

import math
import os
import struct
from pathlib import Path

import msgspec

MAX_HEADER_BYTES = 4 << 20
MAX_TENSORS = 16_384
_MAX_DIMENSIONS = 8

_DTYPE_BYTES = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0"), 1),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 2),
    **dict.fromkeys(("F32", "I32", "U32"), 4),
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 8),
}


class SafetensorsHeaderError(Exception):
    """The file is no whole safetensors file, or larger than an adapter is; the text says why."""


class TensorEntry(msgspec.Struct, frozen=True):
    """What the header says of one tensor."""

    dtype: str
    shape: tuple[int, ...]
    data_offsets: tuple[int, int]
    """Its first byte and the one behind its last, counted from the end of the header."""


class _Offsets(msgspec.Struct, frozen=True):
    """Where a tensor is, whatever else is said of it."""

    data_offsets: tuple[int, int]


class SafetensorsHeader(msgspec.Struct, frozen=True):
    """The tensors of a file by name."""

    tensors: dict[str, TensorEntry]
    data_start: int
    """Where in the file the tensors begin."""


def read_header(file: Path) -> SafetensorsHeader:
    """Read what a file holds.

    Raises:
        SafetensorsHeaderError: it is not whole, or has a larger header or more tensors than any
            adapter. One sentence that names the file and says what to do.
    """
    try:
        with file.open("rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            (length,) = struct.unpack("<Q", stream.read(8))
            if length > size - 8:
                raise ValueError("the header is cut off")
            if length > MAX_HEADER_BYTES:
                raise SafetensorsHeaderError(_too_large(file, f"{length:,} bytes of header"))
            text = stream.read(length)
        num_tensors = text.count(b'"data_offsets"')
        if num_tensors > MAX_TENSORS:
            raise SafetensorsHeaderError(_too_large(file, f"{num_tensors:,} tensors"))
        tensors = _decoded(text)
        end = max((entry.data_offsets[1] for entry in tensors.values()), default=0)
        if size != 8 + length + end:
            raise ValueError(f"it should have {8 + length + end} bytes and has {size}")
    except (OSError, ValueError, RecursionError, struct.error) as error:
        raise SafetensorsHeaderError(
            f"{file.name} is not a whole safetensors file ({error}); copy it again."
        ) from error
    return SafetensorsHeader(tensors, 8 + length)


def whole_bytes(file: Path) -> int:
    """How many bytes a file of any size has if nothing of it was cut off.

    Raises:
        ValueError: the header is cut off, or is none.
        OSError: the file cannot be read.
    """
    with file.open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8).ljust(8, b"\xff"))
        if length > os.fstat(stream.fileno()).st_size - 8:
            raise ValueError("the header is cut off")
        entries = _entries(stream.read(length))
    ends = (msgspec.json.decode(raw, type=_Offsets).data_offsets[1] for raw in entries.values())
    return 8 + length + max(ends, default=0)


def parse_header(data: bytes | memoryview) -> SafetensorsHeader:
    """The header of a file that is in memory, and that `read_header` took."""
    (length,) = struct.unpack_from("<Q", data)
    return SafetensorsHeader(_decoded(bytes(data[8 : 8 + length])), 8 + length)


def _decoded(text: bytes) -> dict[str, TensorEntry]:
    tensors = {
        name: msgspec.json.decode(raw, type=TensorEntry, strict=True)
        for name, raw in _entries(text).items()
    }
    for name, entry in tensors.items():
        if not _is_consistent(entry):
            raise ValueError(f"the bytes of {name[:100]} are not those of its shape and type")
    return tensors


def _entries(text: bytes) -> dict[str, msgspec.Raw]:
    """Those of tensors; the other one may be anything, mlx writes null."""
    entries = msgspec.json.decode(text, type=dict[str, msgspec.Raw])
    entries.pop("__metadata__", None)
    return entries


def _is_consistent(entry: TensorEntry) -> bool:
    begin, end = entry.data_offsets
    if len(entry.shape) > _MAX_DIMENSIONS or min(begin, end - begin, *entry.shape) < 0:
        return False
    size = _DTYPE_BYTES.get(entry.dtype)
    return size is None or end - begin == math.prod(entry.shape) * size


def _too_large(file: Path, found: str) -> str:
    return (
        f"{file.name} has {found}, and an adapter has at most {MAX_HEADER_BYTES:,} bytes of header "
        f"and {MAX_TENSORS:,} tensors; save the LoRA factors alone."
    )
