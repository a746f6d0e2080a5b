"""What the frozen layers make of each row, computed once: they see the same rows in every epoch.

    file = b"VERSELC1", header length, header (JSON), filling to 4096 bytes, the states

States lie one row behind the other: first those of the prefix that all rows share, then the rest of
every row, shortest rows first. Small ones stay in memory. Others lie in a file, of which a step
reads its rows; it is named and headed by what they follow from: the base's weights, the rows, the
number of layers and the type. So a run that goes on, or another run on the same poems, finds them,
and the states of another base are never taken for these.
"""

import errno
import hashlib
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import mlx.core as mx
import msgspec
import numpy as np

from verse.atomic_file import sync_folder
from verse_trainer.encoding import EncodedRow
from verse_trainer.errors import TrainingError
from verse_trainer.memory import CACHED_TOKENS

_MAGIC = b"VERSELC1"
_DATA_START = 4096
_LEFTOVER_SECONDS = 3600
_SAMPLES, _SAMPLE_BYTES = 256, 4096
_NUMPY: dict[mx.Dtype, Any] = {mx.float32: np.float32, mx.float16: np.float16}

States = np.ndarray[Any, Any]


class _Header(msgspec.Struct, frozen=True):
    key: str
    num_tokens: int
    hidden_size: int
    dtype: str


class _Store(Protocol):
    """(tokens, hidden) states; bfloat16 as the integers of the same bits."""

    def read(self, start: int, count: int) -> States: ...
    def write(self, start: int, states: States) -> None: ...
    def finish(self) -> None: ...
    def close(self) -> None: ...


class _MemoryStore:
    def __init__(self, num_tokens: int, hidden_size: int, kind: Any) -> None:
        self._states = np.zeros((num_tokens, hidden_size), kind)

    def read(self, start: int, count: int) -> States:
        return self._states[start : start + count]

    def write(self, start: int, states: States) -> None:
        self._states[start : start + len(states)] = states

    def finish(self) -> None: ...

    def close(self) -> None: ...


class _FileStore:
    """Read and written, not mapped: a full disk is an error then, and no signal."""

    def __init__(self, file: Path, header: _Header, kind: Any) -> None:
        self._file, self._kind, self._width = file, np.dtype(kind), header.hidden_size
        self._temporary: Path | None = None
        if file.exists():
            self._stream: BinaryIO = file.open("rb")
            return
        file.parent.mkdir(parents=True, exist_ok=True)
        _clear_leftovers(file)
        handle, temporary = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
        self._temporary = Path(temporary)
        self._stream = os.fdopen(handle, "w+b")
        encoded = msgspec.json.encode(header)
        self._stream.write(_MAGIC + len(encoded).to_bytes(8, "little") + encoded)

    @property
    def is_found(self) -> bool:
        """Whether the states were there; another rank may write the file at the same time."""
        return self._temporary is None

    def read(self, start: int, count: int) -> States:
        self._stream.seek(self._place(start))
        data = self._stream.read(count * self._width * self._kind.itemsize)
        return np.frombuffer(data, self._kind).reshape(count, self._width)

    def write(self, start: int, states: States) -> None:
        self._stream.seek(self._place(start))
        self._stream.write(np.ascontiguousarray(states).data)

    def finish(self) -> None:
        """Let the file appear under its name."""
        assert self._temporary is not None
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self._temporary.replace(self._file)
        self._temporary = None
        sync_folder(self._file.parent)

    def close(self) -> None:
        """Let go of the file."""
        with suppress(OSError):  # a full disk takes no last bytes
            self._stream.close()

    def discard(self) -> None:
        """Leave nothing half done."""
        self.close()
        if self._temporary is not None:
            self._temporary.unlink(missing_ok=True)

    def _place(self, start: int) -> int:
        return _DATA_START + start * self._width * self._kind.itemsize


def _clear_leftovers(file: Path) -> None:
    """Of passes that were killed; what is being written now is younger."""
    for left in file.parent.glob(f".{file.name}.*"):
        with suppress(OSError):
            if time.time() - left.stat().st_mtime > _LEFTOVER_SECONDS:
                left.unlink()


class LayerCache:
    """The states of a run's rows behind its first `num_layers` layers; zeros until it is filled."""

    def __init__(
        self,
        rows: Iterable[EncodedRow],
        *,
        prefix: int,
        num_layers: int,
        hidden_size: int,
        dtype: mx.Dtype,
    ) -> None:
        """Lay out the states of all rows; equal ones are kept once."""
        read = {row.token_ids[:-1] for row in rows}
        self._ids = sorted(read, key=lambda ids: (len(ids), ids))
        self._prefix, self.num_layers = prefix, num_layers
        self._hidden_size, self._dtype = hidden_size, dtype
        self._kind = _NUMPY.get(dtype, np.uint16)
        self._starts: dict[tuple[int, ...], int] = {}
        end = prefix
        for ids in self._ids:
            self._starts[ids] = end
            end += len(ids) - prefix
        self._num_tokens = end
        self._store: _Store | None = None

    @property
    def num_bytes(self) -> int:
        """Of all states."""
        return self._num_tokens * self._hidden_size * self._dtype.size

    @property
    def num_tokens(self) -> int:
        """Whose states are kept."""
        return self._num_tokens

    @property
    def is_filled(self) -> bool:
        """Whether the states are there."""
        return self._store is not None

    def states(self, rows: Sequence[EncodedRow], total: int) -> mx.array:
        """(total, hidden) of some rows one behind the other, the prefix once in front."""
        if self._store is None:  # zeros cost what numbers cost, so that a step can be measured
            return mx.zeros((total, self._hidden_size), self._dtype)
        packed = np.zeros((total, self._hidden_size), self._kind)
        packed[: self._prefix] = self._store.read(0, self._prefix)
        start = self._prefix
        for row in rows:
            count = row.length - self._prefix
            packed[start : start + count] = self._store.read(
                self._starts[row.token_ids[:-1]], count
            )
            start += count
        return self._from_numpy(packed)

    def close(self) -> None:
        """Let the states go; they would have to be filled in again."""
        if self._store is not None:
            self._store.close()
            self._store = None

    def fill(self, layers: "FrozenLayers", folder: Path | None, base: str) -> None:
        """Run all rows through the layers, or find the file where that was done before.

        Args:
            layers: What is below the trained layers.
            folder: Where the file is or goes; None to keep the states in memory.
            base: Digest of the base's weights.

        Raises:
            TrainingError: the disk is full, or a file of that name holds other states.
        """
        if folder is None:
            store = _MemoryStore(self._num_tokens, self._hidden_size, self._kind)
            self._run(layers, store)
            self._store = store
            return
        header = _Header(self._key(base), self._num_tokens, self._hidden_size, str(self._dtype))
        file = folder / f"{header.key[:32]}.states"
        if file.exists():
            self._check(file, header)
        try:
            self._store = self._filled_file(layers, _FileStore(file, header, self._kind))
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise
            raise TrainingError(
                f"The disk of {folder} is full: the layer cache takes {self.num_bytes / 1e6:.1f} "
                "MB. Free some space, give another --layer-cache-folder, or train with "
                "--no-layer-cache."
            ) from error

    def _filled_file(self, layers: "FrozenLayers", store: _FileStore) -> _FileStore:
        if store.is_found:
            return store
        try:
            self._run(layers, store)
            store.finish()
        except BaseException:
            store.discard()
            raise
        return store

    def _key(self, base: str) -> str:
        kind = f"{base}/{self.num_layers}/{self._dtype}/{self._prefix}/"
        return hashlib.sha256(kind.encode() + msgspec.json.encode(self._ids)).hexdigest()

    def _check(self, file: Path, expected: _Header) -> None:
        try:
            with file.open("rb") as stream:
                start = stream.read(_DATA_START)
            size = int.from_bytes(start[8:16], "little")
            found = msgspec.json.decode(start[16 : 16 + size], type=_Header)
            is_whole = start[:8] == _MAGIC and file.stat().st_size == _DATA_START + self.num_bytes
        except (OSError, ValueError):
            found, is_whole = None, False
        if found != expected or not is_whole:
            reason = "of another base or other rows" if is_whole else "cut off or damaged"
            raise TrainingError(
                f"The layer cache {file} is {reason}; delete it, and it is computed anew."
            )

    def _run(self, layers: "FrozenLayers", store: _Store) -> None:
        prefix_ids = self._ids[0][: self._prefix]
        groups = list(self._groups())
        for number, run in enumerate(layers.steps()):
            first = None if number == 0 else store.read(0, self._prefix).copy()
            for place, group in enumerate(groups):
                start, lengths = self._starts[group[0]], [len(ids) - self._prefix for ids in group]
                if first is None:
                    tail = [token for ids in group for token in ids[self._prefix :]]
                    inputs = mx.array([*prefix_ids, *tail])
                else:
                    below = store.read(start, sum(lengths))
                    inputs = self._from_numpy(np.concatenate([first, below]))
                states = self._to_numpy(run(inputs, lengths, self._prefix))
                if place == 0:
                    store.write(0, states[: self._prefix])
                store.write(start, states[self._prefix :])

    def _groups(self) -> Iterator[list[tuple[int, ...]]]:
        """Rows that are run together, in the order of the states."""
        group: list[tuple[int, ...]] = []
        count = 0
        for ids in self._ids:
            length = len(ids) - self._prefix
            if group and count + length > CACHED_TOKENS:
                yield group
                group, count = [], 0
            group.append(ids)
            count += length
        yield group

    def _from_numpy(self, states: States) -> mx.array:
        array = mx.array(states)
        return array if array.dtype == self._dtype else array.view(self._dtype)

    def _to_numpy(self, states: mx.array) -> States:
        kept = states.astype(self._dtype)
        return np.array(kept if self._dtype in _NUMPY else kept.view(mx.uint16))


class FrozenLayers(Protocol):
    """What a cache is filled from."""

    def steps(self) -> Iterator[Callable[[mx.array, Sequence[int], int], mx.array]]:
        """The embedding, then each layer: functions of (inputs, lengths of the rows, prefix).

        The inputs are ids (tokens,) for the first and states (tokens, hidden) for the others.
        """
        ...


def weights_digest(folder: Path) -> str:
    """Tell one base from another, also where only the numbers differ, without reading all of it."""
    digest = hashlib.sha256((folder / "config.json").read_bytes())
    for file in sorted(folder.glob("*.safetensors")):
        size = file.stat().st_size
        digest.update(f"{file.name}/{size}/".encode())
        with file.open("rb") as stream:
            for number in range(_SAMPLES):
                stream.seek(number * max(0, size - _SAMPLE_BYTES) // (_SAMPLES - 1))
                digest.update(stream.read(_SAMPLE_BYTES))
    return digest.hexdigest()
