"""Weights in 8 bits on the disk, so that the next start neither reads all of a model nor rounds it.

Rounding a Qwen of 0.5B takes three seconds of two cores and reads a gigabyte; what comes of it is
half of that. It goes into one file for each base, in the user's cache folder, where it may be
deleted at any time. The file is named by what the base is: the digest of its folder, and the size
and time of each of its files. Numbers are what the file holds, not the layout of a processor, so
one file serves whatever multiplies them.

A file is written beside its place, and takes it when all of it is on the disk. Where it cannot be
written nothing is lost but time. What is read is summed up; a part whose sum is another is taken
from the model again, and the file goes.
"""

import hashlib
import logging
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from verse.adapter_digest import base_digest

FOLDER_VARIABLE = "VERSE_WEIGHT_CACHE"
_FORM = 2
"""Raised when the same weights come out as other numbers."""
_UNUSED_SECONDS = 30 * 86400.0
_ABANDONED_SECONDS = 3600.0
"""Nobody writes a file for so long."""
_SPARE_BYTES = 1 << 30
"""Of the disk, left to others."""

_log = logging.getLogger(__name__)


class Quantized(NamedTuple):
    """Some rows of a matrix in 8 bits."""

    numbers: NDArray[np.int8]
    """(rows, in_dims), rotated; see `packed.quantized`."""
    steps: NDArray[np.float32]
    """(rows,), what 1 means in each."""


class MatrixSpan(msgspec.Struct, frozen=True):
    """Where a matrix is: its numbers, then its steps, then a sum for each chunk of rows."""

    start: int
    out_dims: int
    in_dims: int
    rows_each: int
    """Of a chunk; the last one may have fewer."""

    @property
    def steps_start(self) -> int:
        """Where the steps begin."""
        return self.start + self.out_dims * self.in_dims

    @property
    def sums_start(self) -> int:
        """Where the sums begin."""
        return self.steps_start + 4 * self.out_dims

    @property
    def end(self) -> int:
        """The byte behind the last."""
        return self.sums_start + 8 * -(-self.out_dims // self.rows_each)


class WeightCache:
    """A file that is read where it is whole, and written where there is none."""

    def __init__(self, file: Path, places: Mapping[str, MatrixSpan]) -> None:
        """Find the file, or begin to write it; see `of`.

        Args:
            file: Its name says which weights it holds.
            places: Of its matrices, one behind the other.
        """
        self._file = file
        self._places = places
        self._num_bytes = max((place.end for place in places.values()), default=0)
        self._part: Path | None = None
        self._num_written = 0
        self._is_damaged = False
        largest = max(
            (min(p.rows_each, p.out_dims) * p.in_dims for p in places.values()), default=0
        )
        self._numbers = np.empty(largest, np.int8)
        self._descriptor = self._opened()
        self.is_found = self._descriptor is not None
        """Whether the numbers are there to be read."""
        if not self.is_found:
            self._begin()

    @classmethod
    def of(
        cls, folder: Path, model: Path, shapes: Mapping[str, tuple[int, int]], chunk_numbers: int
    ) -> "WeightCache":
        """The file of a model.

        Args:
            folder: Where such files are.
            model: The model's folder.
            shapes: (out_dims, in_dims) by the names of the matrices.
            chunk_numbers: About as many are read and written at once.
        """
        places: dict[str, MatrixSpan] = {}
        end = 0
        for name, (out_dims, in_dims) in shapes.items():
            rows_each = max(1, chunk_numbers // in_dims)
            places[name] = MatrixSpan(end, out_dims, in_dims, rows_each)
            end = places[name].end
        key = hashlib.sha256(msgspec.json.encode([_FORM, _identity(model), list(places.items())]))
        name = model.resolve().name
        return cls(folder / f"{name[:80]}-{key.hexdigest()[:32]}.int8", places)

    def matrix(self, name: str) -> "KeptMatrix":
        """One of its matrices."""
        return KeptMatrix(self, self._places[name])

    def read(self, place: MatrixSpan, first: int) -> Quantized | None:
        """See `KeptMatrix`."""
        if not self.is_found or self._descriptor is None:
            return None
        rows = min(place.rows_each, place.out_dims - first)
        # One memory for all: new pages would take longer than what they are filled with.
        numbers = self._numbers[: rows * place.in_dims]
        try:
            self._fill(numbers, place.start + first * place.in_dims)
            steps = os.pread(self._descriptor, 4 * rows, place.steps_start + 4 * first)
            sum_start = place.sums_start + 8 * (first // place.rows_each)
            expected = os.pread(self._descriptor, 8, sum_start)
        except OSError:
            expected = steps = b""
        if len(expected) != 8 or int.from_bytes(expected, "little") != _sum(numbers.data, steps):
            self._is_damaged = True
            return None
        return Quantized(numbers.reshape(rows, place.in_dims), np.frombuffer(steps, "<f4"))

    def write(self, place: MatrixSpan, first: int, rows: Quantized) -> None:
        """See `KeptMatrix`."""
        if self._part is None or self._descriptor is None:
            return
        numbers, steps = rows.numbers.tobytes(), rows.steps.astype("<f4").tobytes()
        total = _sum(numbers, steps).to_bytes(8, "little")
        try:
            self._write_all(place.start + first * place.in_dims, numbers)
            self._write_all(place.steps_start + 4 * first, steps)
            self._write_all(place.sums_start + 8 * (first // place.rows_each), total)
        except OSError as error:
            self._give_up(error)
        self._num_written += len(numbers) + len(steps) + len(total)

    def close(self) -> threading.Thread | None:
        """All has been read or written; who brings it to the disk, if that takes time."""
        descriptor, part = self._descriptor, self._part
        self._descriptor = self._part = None
        if descriptor is None:
            return None
        if part is None or self._num_written != self._num_bytes:
            os.close(descriptor)
            self._drop(part)
            return None
        thread = threading.Thread(
            target=self._bring_to_disk, args=(descriptor, part), name="weight-cache", daemon=True
        )
        thread.start()
        return thread

    def _drop(self, part: Path | None) -> None:
        """Delete what is not whole."""
        with suppress(OSError):
            if part is not None:
                part.unlink()
            elif self._is_damaged:
                _log.warning("%s was damaged; the next start writes it anew.", self._file)
                self._file.unlink()

    def _opened(self) -> int | None:
        with suppress(OSError):
            descriptor = os.open(self._file, os.O_RDONLY | os.O_CLOEXEC)
            if os.fstat(descriptor).st_size == self._num_bytes:
                with suppress(OSError):
                    os.utime(self._file)
                return descriptor
            os.close(descriptor)
        return None

    def _begin(self) -> None:
        folder = self._file.parent
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            _forget(folder)
            if shutil.disk_usage(folder).free < self._num_bytes + _SPARE_BYTES:
                _log.info("The disk of %s is too full to keep packed weights.", folder)
                return
            self._descriptor, part = tempfile.mkstemp(".part", self._file.name, folder)
            self._part = Path(part)
        except OSError as error:
            self._give_up(error)

    def _fill(self, array: NDArray[np.int8], start: int) -> None:
        assert self._descriptor is not None
        done = 0
        while done < len(array):
            count = os.preadv(self._descriptor, [array[done:].data], start + done)
            if not count:
                raise OSError("the file has been cut short")
            done += count

    def _write_all(self, start: int, data: bytes) -> None:
        assert self._descriptor is not None
        view = memoryview(data)
        while view:
            written = os.pwrite(self._descriptor, view, start)
            view, start = view[written:], start + written

    def _bring_to_disk(self, descriptor: int, part: Path) -> None:
        try:
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            part.replace(self._file)
            _log.info("Packed weights are kept in %s (%d MB).", self._file, self._num_bytes >> 20)
        except OSError as error:
            self._part = part
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        _log.info("Packed weights are not kept in %s: %s.", self._file.parent, error.strerror)
        if self._descriptor is not None:
            os.close(self._descriptor)
        self._drop(self._part)
        self._descriptor = self._part = None


class KeptMatrix(NamedTuple):
    """What a file has of one matrix, or is to have."""

    cache: WeightCache
    place: MatrixSpan

    def read(self, first: int) -> Quantized | None:
        """The chunk that begins with a row; None if it is not there, or damaged.

        The next one that is read takes its place in memory.
        """
        return self.cache.read(self.place, first)

    def write(self, first: int, rows: Quantized) -> None:
        """Keep the chunk that begins with a row, as it has just been rounded."""
        self.cache.write(self.place, first, rows)


def cache_folder() -> Path | None:
    """Where the files are: `VERSE_WEIGHT_CACHE`, by XDG's rule without it; None if it is empty."""
    if (named := os.environ.get(FOLDER_VARIABLE)) is not None:
        # Path's own raises for unknown users.
        return Path(os.path.expanduser(named)) if named else None  # noqa: PTH111
    root = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (root if root.is_absolute() else Path.home() / ".cache") / "verse"


def _identity(model: Path) -> list[object]:
    """What tells a base from another, an edited file included, without reading all of it."""
    files = [(file.name, file.stat()) for file in sorted(model.glob("model*.safetensors"))]
    return [base_digest(model), *([name, of.st_size, of.st_mtime_ns] for name, of in files)]


def _sum(*parts: bytes | memoryview) -> int:
    """A sum over words of 8 bytes: fast beside a checksum, and zeros or a cut are not missed."""
    total = 0
    for part in parts:
        whole = len(part) // 8 * 8
        total += int(np.frombuffer(part[:whole], "<u8").sum())
        total += int.from_bytes(part[whole:], "little") + len(part)
    return total % (1 << 64)


def _forget(folder: Path) -> None:
    """Delete what nobody has read for a month, and what was never finished."""
    now = time.time()
    for file in folder.iterdir():
        most = {".int8": _UNUSED_SECONDS, ".part": _ABANDONED_SECONDS}.get(file.suffix)
        with suppress(OSError):
            if most is not None and now - file.stat().st_mtime > most:
                file.unlink()
