"""Both ends of a packed model: rows of the embedding, and the logits that come out of the head.

Rows are looked up in the model's own file, which stays where it is. Logits are multiplied only
where somebody looks, and those of a batch into memory that is used again.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from numpy.typing import NDArray

from verse.cpu_weights.layers import Layer, PackedLinear, host_array, is_quantized, products
from verse.cpu_weights.packed import Host
from verse.safetensors_header import SafetensorsHeaderError, read_header

ExactRows = Callable[[NDArray[Any]], Host]
"""Ids of any shape -> their rows of a table, one axis more, float32."""

_EXACT_SHARE = 0.04
"""Logits this near to the largest, as a share of it, are computed anew: 8 bits are off by less."""
_EXACT_MOST = 256
"""Of a row; where more are that near, nothing much is decided between them."""


class PackedEmbedding(nn.Module):
    """Stands in for a frozen Embedding: a table to look rows up, and the head where it is tied."""

    def __init__(self, table: ExactRows, head: "PackedHead | None") -> None:
        super().__init__()
        self._parts = table, head

    @property
    def num_bytes(self) -> int:
        """What the head takes."""
        head = self._parts[1]
        return 0 if head is None else head.num_bytes

    def __call__(self, tokens: mx.array) -> Host:
        """(batch, tokens) ids -> (batch, tokens, dims) float32 on the host."""
        return self._parts[0](cast(Any, np.array(tokens)))

    def as_linear(self, x: Any) -> Any:
        """See `PackedHead`."""
        head = self._parts[1]
        assert head is not None
        return head(x)


class PackedHead(nn.Module):
    """Stands in for the output layer, tied or of its own."""

    def __init__(
        self, linear: PackedLinear, exact: ExactRows | None = None, scales: Host | None = None
    ) -> None:
        """Take weights, where rows are to be had unrounded, and by what columns were multiplied."""
        super().__init__()
        self._head = linear, exact, None if scales is None else cast(Host, 1 / scales)
        self._room = _Room(linear.matrix.out_dims)

    @property
    def num_bytes(self) -> int:
        """What it takes."""
        return self._head[0].num_bytes

    @property
    def linear(self) -> PackedLinear:
        """The packed weights."""
        return self._head[0]

    def __call__(self, x: Any) -> Any:
        """Of an array of mlx the logits, of one on the host `HostLogits`."""
        return (
            mx.array(self.logits(host_array(x))) if isinstance(x, mx.array) else HostLogits(x, self)
        )

    def logits(self, hidden: Host) -> Host:
        """(..., dims) -> (..., vocab); those near the largest as exact as the model's file.

        They lie in memory that the next call may write over.
        """
        linear, exact, shrunk = self._head
        x = hidden if shrunk is None else hidden * shrunk
        logits = products([linear], x, [self._room.of(hidden.size // hidden.shape[-1])])[0]
        if exact is not None:
            rows = logits.reshape(-1, logits.shape[-1])
            for row, of_row in zip(rows, hidden.reshape(-1, hidden.shape[-1]), strict=True):
                largest = float(row.max())
                least = largest - _EXACT_SHARE * abs(largest)
                near = cast(Any, np.flatnonzero(row >= least))
                if len(near) <= _EXACT_MOST:
                    row[near] = np.ascontiguousarray(exact(near)) @ of_row
        return logits


_ROOMY_ROWS = 64


class _Room:
    """For the logits of a batch. To clear new pages for them takes longer than to copy them."""

    def __init__(self, width: int) -> None:
        self._rows = np.empty((0, width), np.float32)

    def of(self, num_rows: int) -> Host | None:
        """(rows, width); None for more rows than a batch has."""
        if num_rows > _ROOMY_ROWS:
            return None
        if num_rows > len(self._rows):
            self._rows = np.empty((num_rows, self._rows.shape[1]), np.float32)
        return self._rows[:num_rows]


class HostLogits:
    """(batch, tokens, vocab) that are multiplied only where somebody looks.

    Of a prompt nobody needs any but the last token's, and a head is a quarter of a small model.
    """

    def __init__(self, hidden: Host, head: PackedHead) -> None:
        self._hidden = hidden
        self._head = head

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of all."""
        return (*self._hidden.shape[:2], self._head.linear.matrix.out_dims)

    def __getitem__(self, index: Any) -> mx.array:
        """Those of some rows, by the first two axes."""
        return mx.array(self.on_host(index))

    def on_host(self, index: Any) -> Host:
        """The same without mlx, and only until the head is next asked."""
        return self._head.logits(np.ascontiguousarray(self._hidden[index]))


_FLOATS = {"F32": mx.float32, "F16": mx.float16, "BF16": mx.bfloat16}
_WORDS: dict[Any, Any] = {mx.float32: np.float32, mx.float16: np.float16, mx.bfloat16: np.uint16}


class EmbeddingFile:
    """A plain table inside a safetensors file, which stays open: replacing it changes nothing."""

    def __init__(self, file: Path, start: int, shape: tuple[int, int], dtype: Any) -> None:
        self._file = os.open(file, os.O_RDONLY)
        self._start = start
        self._shape = shape
        self._dtype = dtype

    @classmethod
    def find(
        cls, folder: Path, embedding: Layer, name: str = "embed_tokens"
    ) -> "EmbeddingFile | None":
        """The table of a model folder; None if none is clearly that one."""
        if is_quantized(embedding):
            return None
        try:
            return cls._found(folder, embedding, f"{name}.weight")
        except SafetensorsHeaderError:  # larger than what is read so
            return None

    @classmethod
    def _found(cls, folder: Path, embedding: Layer, wanted: str) -> "EmbeddingFile | None":
        shape = tuple(embedding["weight"].shape)
        found: list[EmbeddingFile] = []
        for file in sorted(folder.glob("model*.safetensors")):
            header = read_header(file)
            for name, tensor in header.tensors.items():
                is_it = name.endswith(wanted) and tensor.shape == shape
                if is_it and tensor.dtype in _FLOATS:
                    start = header.data_start + tensor.data_offsets[0]
                    found.append(cls(file, start, shape, _FLOATS[tensor.dtype]))
        return found[0] if len(found) == 1 else None

    def __call__(self, tokens: NDArray[Any]) -> Host:
        """Ids of any shape -> one axis more, float32."""
        flat = tokens.reshape(-1)
        words = _WORDS[self._dtype]
        row_bytes = self._shape[1] * np.dtype(words).itemsize
        known, where = np.unique(flat, return_inverse=True)
        parts = [os.pread(self._file, row_bytes, self._start + int(t) * row_bytes) for t in known]
        if any(len(part) != row_bytes for part in parts):
            raise OSError("The model's file has been cut short; start the server again.")
        rows = np.frombuffer(b"".join(parts), words).reshape(len(known), -1)
        return _as_float32(rows, self._dtype)[where].reshape(*tokens.shape, -1)


class EmbeddingTable:
    """A table in memory, in the form the folder has it, quantized or not."""

    def __init__(self, embedding: Layer) -> None:
        self._embedding = embedding

    def __call__(self, tokens: NDArray[Any]) -> Host:
        """Ids of any shape -> one axis more, float32."""
        rows = self._embedding(mx.array(tokens))
        return cast(Host, np.array(rows.astype(mx.float32)))


def _as_float32(rows: NDArray[Any], dtype: Any) -> Host:
    if dtype == mx.bfloat16:
        return (rows.astype(np.uint32) << 16).view(np.float32)
    return rows.astype(np.float32)
