"""Tests of huge pages: what is collapsed, and that it is."""

import mmap
from pathlib import Path

import numpy as np
import pytest

from verse.cpu_weights.huge_pages import PAGE_BYTES, Span, filled_spans, put_into_huge_pages

_MIB = 1 << 20
_SUMS = Path("/proc/self/smaps_rollup")


def _mapping(start: int, size: int, used: int, what: str = "rw-p 00000000 00:00 0") -> list[str]:
    return [
        f"{start:x}-{start + size:x} {what}\n",
        f"Size:           {size >> 10:>8} kB\n",
        f"Anonymous:      {used >> 10:>8} kB\n",
        "VmFlags: rd wr mr mw me ac sd\n",
    ]


def test_whole_huge_pages_of_filled_memory_are_collapsed() -> None:
    lines = _mapping(0x7F00_0010_0000, 8 * _MIB, 8 * _MIB)
    assert filled_spans(lines) == [Span(0x7F00_0020_0000, 0x7F00_0080_0000)]


def test_the_heap_is_collapsed_and_what_is_mostly_empty_is_not() -> None:
    heap = _mapping(0x5500_0000_0000, 8 * _MIB, 8 * _MIB, "rw-p 00000000 00:00 0    [heap]")
    stack = _mapping(0x7F00_0000_0000, 8 * _MIB, 64 << 10)
    assert filled_spans(heap + stack) == [Span(0x5500_0000_0000, 0x5500_0080_0000)]


@pytest.mark.parametrize(
    "what",
    [
        "rw-p 00000000 08:01 4711    /a/model.safetensors",
        "rw-s 00000000 00:00 0",
        "r--p 00000000 00:00 0",
        "rw-p 00000000 00:00 0    [stack]",
    ],
)
def test_files_shared_memory_and_what_is_only_read_are_left_alone(what: str) -> None:
    assert filled_spans(_mapping(0x7F00_0000_0000, 8 * _MIB, 8 * _MIB, what)) == []


def test_memory_smaller_than_a_huge_page_is_left_alone() -> None:
    assert filled_spans(_mapping(0x7F00_0010_0000, 2 * _MIB, 2 * _MIB)) == []


@pytest.mark.skipif(not _SUMS.exists(), reason="only Linux tells what lies in huge pages")
def test_memory_that_lies_there_is_in_huge_pages_afterwards_and_holds_the_same() -> None:
    size = 16 * PAGE_BYTES
    with mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        memory.madvise(mmap.MADV_NOHUGEPAGE)  # where all memory is in them from the start
        numbers = np.frombuffer(memory, np.uint32)
        numbers[:] = np.arange(len(numbers))
        before = _huge_bytes()
        thread = put_into_huge_pages()
        if thread is None:
            pytest.skip("this system has no huge pages")
        thread.join()
        is_same = bool((numbers == np.arange(len(numbers))).all())
        del numbers
        if _huge_bytes() == before:
            pytest.skip("this system collapses nothing when it is asked")
    assert is_same


def _huge_bytes() -> int:
    lines = _SUMS.read_text().splitlines()
    found = (int(line.split()[1]) << 10 for line in lines if line.startswith("AnonHugePages"))
    return next(found, 0)
