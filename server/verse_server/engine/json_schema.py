"""Which JSON schemas are taken on: bounds that keep compiling one short and safe. Pure.

llguidance bounds its own work, but for three things that are counted here: it follows schemas by
recursion (thousands nested through `$ref` overflow the stack of the process), makes one state for
each remainder of `multipleOf`, and reads any amount of text.
"""

import math
from collections.abc import Iterator
from decimal import Decimal
from typing import Any, cast

import msgspec

_MAX_BYTES = 64 << 10
_MAX_OBJECTS = 500
"""More than a thousand nested ones were seen to overflow a stack of 8 MiB."""
_MAX_DEPTH = 64
_MAX_REMAINDERS = 1000
"""Of all `multipleOf` together: an `allOf` may ask for several at once."""


def schema_excess(schema: str) -> str | None:
    """What is too much about a schema, as a clause; None if nothing is.

    Args:
        schema: JSON text of an object.
    """
    if len(schema.encode()) > _MAX_BYTES:
        return f"it is longer than {_MAX_BYTES} bytes"
    objects: list[dict[str, Any]] = []
    for depth, value in _nested(msgspec.json.decode(schema)):
        if depth > _MAX_DEPTH:
            return f"it is nested deeper than {_MAX_DEPTH} levels"
        if isinstance(value, dict):
            objects.append(cast(dict[str, Any], value))
    if len(objects) > _MAX_OBJECTS:
        return f"it has more than {_MAX_OBJECTS} objects"
    steps = [step for o in objects if isinstance(step := o.get("multipleOf"), int | float)]
    if math.lcm(*map(_digits, steps)) > _MAX_REMAINDERS:
        return f"its 'multipleOf' together need more than {_MAX_REMAINDERS} remainders"
    return None


def _nested(root: Any) -> Iterator[tuple[int, Any]]:
    """Every value with its depth, without recursion."""
    left: list[tuple[int, Any]] = [(0, root)]
    while left:
        depth, value = left.pop()
        yield depth, value
        if isinstance(value, dict):
            left.extend((depth + 1, v) for v in cast(dict[str, Any], value).values())
        elif isinstance(value, list):
            left.extend((depth + 1, v) for v in cast(list[Any], value))


def _digits(number: float) -> int:
    """The digits that carry a number, as llguidance counts: 0.25 -> 25, 3000 -> 3."""
    return max(1, int("".join(map(str, Decimal(str(number)).normalize().as_tuple().digits))))
