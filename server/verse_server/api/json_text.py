"""What a JSON decoder passes over: a byte order mark, and a key that occurs twice in one object.

Of such a key every decoder takes another value, so nobody can say what was asked for.
"""

import codecs
import json
from typing import Any

from verse_server.api.errors import RequestError

_MARKS = (
    (codecs.BOM_UTF8, "UTF-8"),
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)
_MAX_KEY_CHARS = 100


def refuse_byte_order_mark(body: bytes) -> None:
    """Name a mark in front of a body.

    Raises:
        RequestError: there is one.
    """
    encoding = next((name for mark, name in _MARKS if body.startswith(mark)), None)
    if encoding is not None:
        raise RequestError(
            f"The body begins with a byte order mark (BOM) of {encoding}; send plain UTF-8 "
            "without one.",
            code="invalid_json",
        )


def refuse_repeated_keys(body: bytes) -> None:
    """Name a key that occurs twice in one object, at any depth.

    Args:
        body: JSON that has been decoded before.

    Raises:
        RequestError: there is one.
        RecursionError: objects are nested too deeply.
    """
    # Numbers stay text: they are not looked at, and an endless one takes its time.
    json.loads(body, object_pairs_hook=_checked, parse_int=str, parse_float=str)


def _checked(pairs: list[tuple[str, Any]]) -> None:
    seen: set[str] = set()
    for key, _ in pairs if len(dict(pairs)) < len(pairs) else ():
        if key in seen:
            shown = key if len(key) <= _MAX_KEY_CHARS else f"{key[:_MAX_KEY_CHARS]}…"
            raise RequestError(
                f"The key '{shown}' occurs twice in one object; send it once.",
                param=shown,
                code="duplicate_key",
            )
        seen.add(key)
