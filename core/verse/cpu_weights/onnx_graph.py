"""Models of ONNX, written byte by byte.

Importing the package onnx would take a quarter of a second at each start.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

NO_FILE = Path(os.devnull)
_IR_VERSION = 8
_OPSET = 17
_MICROSOFT = "com.microsoft"
_OF_MICROSOFT = ("MatMulIntegerToFloat", "QuickGelu")
_TYPES: dict[Any, int] = {
    np.dtype(np.float32): 1,
    np.dtype(np.uint8): 2,
    np.dtype(np.int8): 3,
    np.dtype(np.int64): 7,
}

Attribute = float | int | Sequence[int]
Shape = tuple[str | int, ...]
"""A dimension with a name may be any."""


class OnnxGraph:
    """A model in the making; what is computed has a name."""

    def __init__(self) -> None:
        self._nodes: list[tuple[str, Sequence[str], Sequence[str], dict[str, Attribute]]] = []
        self._named: dict[str, str] = {}
        self._constants: Parts = []
        self._inputs: Parts = []
        self._outputs: Parts = []
        self._num_names = 0

    def input(self, name: str, dtype: Any, shape: Shape) -> str:
        """What each run is given."""
        self._inputs += _message(11, _described(name, np.dtype(dtype), shape))
        return name

    def weight(self, name: str, dtype: Any, shape: tuple[int, ...]) -> str:
        """What the session is given: within the model it would be copied three times.

        It is said to be in a file, which has to be there and is not opened.
        """
        dims = [part for size in shape for part in _number(1, size)]
        where = _message(13, [*_text(1, "location"), *_text(2, NO_FILE.name)])
        dtype = _number(2, _TYPES[np.dtype(dtype)])
        self._constants += _message(5, [*dims, *dtype, *_text(8, name), *where, *_number(14, 1)])
        return name

    def constant(self, array: NDArray[np.generic]) -> str:
        """What is in the model."""
        name = self._new_name()
        dims = [part for size in array.shape for part in _number(1, size)]
        content = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
        dtype = _number(2, _TYPES[array.dtype])
        self._constants += _message(5, [*dims, *dtype, *_text(8, name), *_message(9, [content])])
        return name

    def node(self, kind: str, *inputs: str, **attributes: Attribute) -> str:
        """The one output of an operator."""
        return self.nodes(kind, *inputs, num_outputs=1, **attributes)[0]

    def nodes(
        self, kind: str, *inputs: str, num_outputs: int, **attributes: Attribute
    ) -> list[str]:
        """The outputs of an operator."""
        outputs = [self._new_name() for _ in range(num_outputs)]
        self._nodes.append((kind, inputs, outputs, attributes))
        return outputs

    def output(self, name: str, computed: str, dtype: Any, shape: Shape) -> None:
        """What a run may be asked for."""
        self._named[computed] = name
        self._outputs += _message(12, _described(name, np.dtype(dtype), shape))

    def serialized(self) -> bytes:
        """A ModelProto."""
        graph = [part for node in self._nodes for part in self._written(*node)]
        graph += [*_text(2, "graph"), *self._constants, *self._inputs, *self._outputs]
        model = [*_number(1, _IR_VERSION), *_message(7, graph)]
        for domain, version in (("", _OPSET), (_MICROSOFT, 1)):
            model += _message(8, [*_text(1, domain), *_number(2, version)])
        return b"".join(model)

    def _written(
        self,
        kind: str,
        inputs: Sequence[str],
        outputs: Sequence[str],
        attributes: dict[str, Attribute],
    ) -> "Parts":
        node = [part for name in inputs for part in _text(1, self._named.get(name, name))]
        node += [part for name in outputs for part in _text(2, self._named.get(name, name))]
        node += _text(4, kind)
        for name, value in attributes.items():
            node += _message(5, _attribute(name, value))
        return _message(1, [*node, *_text(7, _MICROSOFT if kind in _OF_MICROSOFT else "")])

    def _new_name(self) -> str:
        self._num_names += 1
        return f"_{self._num_names}"


Parts = list[bytes | memoryview]
"""Of a message, joined once all is there: a constant may be long."""


def _attribute(name: str, value: Attribute) -> Parts:
    if isinstance(value, float):
        return [*_text(1, name), _varint(2 << 3 | 5), np.float32(value).tobytes(), *_number(20, 1)]
    if isinstance(value, int):
        return [*_text(1, name), *_number(3, value), *_number(20, 2)]
    numbers = [part for each in value for part in _number(8, each)]
    return [*_text(1, name), *numbers, *_number(20, 7)]


def _described(name: str, dtype: Any, shape: Shape) -> Parts:
    """What goes in or comes out."""
    dims = [_text(2, size) if isinstance(size, str) else _number(1, size) for size in shape]
    in_each = [part for dim in dims for part in _message(1, dim)]
    tensor = [*_number(1, _TYPES[dtype]), *_message(2, in_each)]
    return [*_text(1, name), *_message(2, _message(1, tensor))]


def _number(field: int, value: int) -> Parts:
    return [_varint(field << 3), _varint(value)]


def _text(field: int, text: str) -> Parts:
    return _message(field, [text.encode()])


def _message(field: int, parts: Parts) -> Parts:
    return [_varint(field << 3 | 2), _varint(sum(map(len, parts))), *parts]


def _varint(value: int) -> bytes:
    """A number from 0, 7 bits in each byte."""
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])
