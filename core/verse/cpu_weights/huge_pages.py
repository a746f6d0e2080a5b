"""Packed weights in huge pages, from which a step reads them faster.

A step reads every weight once, so what it waits for is memory: in pages of 4 KiB the processor
looks up every 64 lines where the next page is, and reads nothing ahead beyond its end. The
libraries that pack have memory of their own and ask for no huge pages, so what lies there already
is collapsed into them at last.
"""

import ctypes
import mmap
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

PAGE_BYTES = 2 << 20
"""Of a huge page."""
_LEAST_FILLED = 0.9
"""Of a mapping: what is empty of it is filled with zeros."""
_ADVICES = (getattr(mmap, "MADV_HUGEPAGE", 14), 25)
"""To want huge pages; and MADV_COLLAPSE, to have them now, which Linux knows from 6.1 on."""
_HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")
_MAPPINGS = Path("/proc/self/smaps")


class Span(NamedTuple):
    """Addresses of whole huge pages."""

    start: int
    end: int


def put_into_huge_pages() -> threading.Thread | None:
    """Begin with what this process holds now; who does it, None where the system has none."""
    with suppress(OSError, AttributeError):
        if "[never]" not in _HUGE_PAGES.read_text():
            advise = ctypes.CDLL(None).madvise
            advise.argtypes = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
            # A second for half a gigabyte: nobody has to wait for it.
            thread = threading.Thread(target=_collapse, args=(advise,), name="huge-pages")
            thread.daemon = True
            thread.start()
            return thread
    return None


def _collapse(advise: Callable[[int, int, int], int]) -> None:
    with suppress(OSError), _MAPPINGS.open() as lines:
        for span in filled_spans(lines):
            for advice in _ADVICES:
                # A mapping that is gone by now is refused, and so is what a kernel does not know.
                advise(span.start, span.end - span.start, advice)


def filled_spans(lines: Iterable[str]) -> list[Span]:
    """Of private memory that is of no file and nearly all in use, the whole huge pages.

    Args:
        lines: Of `/proc/self/smaps`: for each mapping its addresses, then its properties.
    """
    spans: list[Span] = []
    start = end = 0
    for line in lines:
        name, *rest = line.split()
        if not name.endswith(":"):
            is_of_no_file = len(rest) < 5 or rest[4] == "[heap]"
            is_private = is_of_no_file and rest[0].startswith("rw-p")
            first, last = (int(address, 16) for address in name.split("-"))
            start, end = (first, last) if is_private else (0, 0)
        elif name == "Anonymous:" and int(rest[0]) * 1024 >= _LEAST_FILLED * (end - start) > 0:
            span = Span(-(-start // PAGE_BYTES) * PAGE_BYTES, end // PAGE_BYTES * PAGE_BYTES)
            if span.start < span.end:
                spans.append(span)
    return spans
