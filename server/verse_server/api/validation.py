"""What msgspec says of a wrong body, as api.openai.com says it: message, `param` and `code`.

The codes are those of its recorded answers: `invalid_type`, `integer_below_min_value`,
`decimal_above_max_value`, `string_below_min_length`, `empty_array`, `missing_required_parameter`
and their kind; `invalid_value` where there is no closer one.

Besides, what msgspec passes over: a byte order mark, and a key that occurs twice in one object. Of
such a key every decoder takes another value, so nobody can say what was asked for.
"""

import codecs
import json
import re
from itertools import islice
from typing import Any, cast, get_args

import msgspec

from verse_server.api.errors import RequestError
from verse_server.protocol.chat import Role
from verse_server.protocol.responses import ItemRole, ItemType, ResponseIncludable

_MAX_PARAM_CHARS = 100
_MAX_SHOWN_CHARS = 60
_PLACE = re.compile(r" - at (?:`key` in )?`\$\.?([^`]*)`$")
_STEP = re.compile(r"([^.\[\]]+)|\[(\d+)\]")
_UNKNOWN = re.compile(r"Object contains unknown field `(.*)`", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(.*)`")
_WRONG_TYPE = re.compile(r"Expected `([^`]*)`(?:, got `([^`]*)`)?")
_A_FLOAT = re.compile(r"Expected `([^`]*)`, got `float`")
_OUT_OF_BOUNDS = re.compile(r"Expected `(int|float)` (<=|>=) (\S+)")
_WRONG_LENGTH = re.compile(r"Expected `(\w+)` of length (<=|>=) (\d+)")
_NO_MATCH = re.compile(r"Expected `str` matching regex (.*)", re.DOTALL)
_NO_CHOICE = re.compile(r"Invalid (?:enum )?value (.*)", re.DOTALL)

_MARKS = (
    (codecs.BOM_UTF8, "UTF-8"),
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)

_MAX_CONTAINERS = 1 << 13
"""Objects and lists of one body. A megabyte of nothing else takes 0.2 s to be read, in which nobody
else is answered."""
_TO_NEXT_CONTAINER = re.compile(
    rb"""(?: [^"{\[]++ | " (?:[^"\\]++|\\.)*+ \\?+ (?:"|\Z) )*+ (?:[{\[]|\Z)""",
    re.DOTALL | re.VERBOSE,
)
"""Past all texts before it. There is always a match, and never a way back: no body takes longer."""

_ESCAPED_COLONS = (rb"\u003a", rb"\u003A")

_CHOICES = {
    "input[].type": get_args(ItemType),
    "input[].role": get_args(ItemRole),
    "input[].content[].type": ("input_text", "output_text", "refusal"),
    "input[].output[].type": ("input_text",),
    "include[]": get_args(ResponseIncludable),
    "text.format.type": ("text", "json_object", "json_schema", "grammar"),
    "tool_choice.type": ("function", "allowed_tools"),
    "content[].type": ("text",),
    "role": get_args(Role),
    "tools[].type": ("function",),
    "response_format.type": ("text", "json_object", "json_schema", "grammar"),
    "reasoning_effort": ("none", "minimal", "low", "medium", "high", "xhigh"),
    "verbosity": ("low", "medium", "high"),
}
_NOUNS = {
    "int": "an integer",
    "float": "a decimal",
    "str": "a string",
    "bool": "a boolean",
    "array": "an array",
    "object": "an object",
    "null": "null",
}
_GOT = _NOUNS | {"float": "a decimal number"}
_BOUNDS = {"<=": ("above maximum", "above_max"), ">=": ("below minimum", "below_min")}
_LENGTHS = {"<=": ("long", "maximum", "above_max"), ">=": ("short", "minimum", "below_min")}

_Nothing = msgspec.UNSET


def explained(complaint: str, body: bytes) -> RequestError:
    """Turn msgspec's `Expected ... - at `$.messages[0].role`` into OpenAI's words."""
    place = place_of(complaint)
    problem = _PLACE.sub("", complaint)
    if (unknown := _UNKNOWN.fullmatch(problem)) is not None:
        param = _shortened(_joined(place, unknown[1]))
        return _error(f"Unknown parameter: '{param}'; leave it out.", param, "unknown_parameter")
    if (missing := _MISSING.fullmatch(problem)) is not None:
        param = _joined(place, missing[1])
        return _error(
            f"Missing required parameter: '{param}'.", param, "missing_required_parameter"
        )
    if "at `key` in" in complaint:
        return _error(f"Invalid keys in '{place}': they must be integers.", place, "invalid_type")
    value = value_at(body, place)
    for pattern, explain in _EXPLANATIONS:
        if (found := pattern.fullmatch(problem)) is not None:
            return explain(found, place, value)
    return _error(f"Invalid value for {_named(place)}: {problem.lower()}.", place, "invalid_value")


def with_whole_numbers(body: bytes, complaint: str) -> bytes | None:
    """The body with 5.0 written as 5 where a complaint is about that; None if it is not."""
    if (found := _A_FLOAT.match(complaint)) is None or "int" not in found[1].split(" | "):
        return None
    value: Any = msgspec.json.decode(body)
    *parents, last = [name or int(index) for name, index in _STEP.findall(place_of(complaint))]
    holder = value
    for step in parents:
        holder = holder[step]
    # A list of token ids may hold thousands.
    steps = range(len(holder)) if isinstance(last, int) else (last,)
    whole = [step for step in steps if _is_whole(holder[step])]
    if last not in whole:
        return None
    for step in whole:
        holder[step] = int(holder[step])
    return msgspec.json.encode(value)


def _is_whole(value: Any) -> bool:
    return isinstance(value, float) and value.is_integer() and abs(value) < 2**53


def place_of(complaint: str) -> str:
    """The path of what is wrong, without the keys that msgspec leaves open; empty for the body."""
    place = _PLACE.search(complaint)
    return place[1].replace("[...]", "") if place else ""


def value_at(body: bytes, place: str) -> Any:
    """What a body holds in a place; UNSET if that cannot be told."""
    try:
        value: Any = msgspec.json.decode(body)
    except msgspec.DecodeError:  # a number is too large for anything
        return _Nothing
    for name, index in _STEP.findall(place):
        if isinstance(value, dict) and name in value:
            value = cast(dict[str, Any], value)[name]
        elif isinstance(value, list) and index and int(index) < len(cast(list[Any], value)):
            value = cast(list[Any], value)[int(index)]
        else:
            return _Nothing
    return value


def _of_type(found: re.Match[str], place: str, _value: Any) -> RequestError:
    kinds = [kind for kind in found[1].split(" | ") if kind != "null"]
    nouns = [_NOUNS.get(kind, kind) for kind in kinds]
    expected = nouns[0] if len(nouns) == 1 else f"one of {', '.join(nouns[:-1])} or {nouns[-1]}"
    got = f", but got {_GOT.get(found[2], found[2])} instead" if found[2] else ""
    return _error(
        f"Invalid type for {_named(place)}: expected {expected}{got}.", place, "invalid_type"
    )


def _of_bounds(found: re.Match[str], place: str, value: Any) -> RequestError:
    kind = "integer" if found[1] == "int" else "decimal"
    words, code = _BOUNDS[found[2]]
    bound = found[3].removesuffix(".0")
    got = "" if isinstance(value, dict) else _but_got(value)
    return _error(
        f"Invalid {_named(place)}: {kind} {words} value. Expected a value {found[2]} {bound}{got}.",
        place,
        f"{kind}_{code}_value",
    )


def _of_length(found: re.Match[str], place: str, value: Any) -> RequestError:
    words, bound, code = _LENGTHS[found[2]]
    kind = {"str": "string", "array": "array"}.get(found[1], "object")
    expected = f"Expected {_NOUNS[found[1]]} with {bound} length {found[3]}"
    size = len(cast(str, value)) if isinstance(value, str | list | dict) else None
    if size == 0:
        got = f", but got an empty {kind} instead"
        words, code = ("empty array", "") if kind == "array" else (f"{kind} too {words}", code)
    else:
        got = "" if size is None else f", but got {_NOUNS[found[1]]} with length {size} instead"
        words = f"{kind} too {words}"
    code = f"{kind}_{code}_length" if code else "empty_array"
    return _error(f"Invalid {_named(place)}: {words}. {expected}{got}.", place, code)


def _of_pattern(found: re.Match[str], place: str, _value: Any) -> RequestError:
    return _error(
        f"Invalid {_named(place)}: string does not match pattern. Expected a string that matches "
        f"the pattern {found[1]}.",
        place,
        "invalid_value",
    )


def _of_choice(found: re.Match[str], place: str, _value: Any) -> RequestError:
    plain = re.sub(r"\[\d+\]", "[]", place)
    choices = next((c for name, c in _CHOICES.items() if plain.endswith(name)), ())
    quoted = [f"'{choice}'" for choice in choices]
    supported = f" Supported values are: {', '.join(quoted)}." if quoted else ""
    shown = found[1] if len(found[1]) <= _MAX_SHOWN_CHARS else f"{found[1][:_MAX_SHOWN_CHARS]}…"
    return _error(f"Invalid value for {_named(place)}: {shown}.{supported}", place, "invalid_value")


_EXPLANATIONS = (
    (_OUT_OF_BOUNDS, _of_bounds),
    (_WRONG_LENGTH, _of_length),
    (_NO_MATCH, _of_pattern),
    (_WRONG_TYPE, _of_type),
    (_NO_CHOICE, _of_choice),
)


def _error(message: str, param: str, code: str) -> RequestError:
    return RequestError(message, param=param or None, code=code)


def _but_got(value: Any) -> str:
    if not isinstance(value, int | float):
        return ""
    shown = f"{value:g}" if isinstance(value, float) else str(value)[:_MAX_SHOWN_CHARS]
    return f", but got {shown} instead"


def _named(place: str) -> str:
    return f"'{place}'" if place else "the body"


def _joined(parent: str, field: str) -> str:
    return f"{parent}.{field}" if parent else field


def _shortened(name: str) -> str:
    return name if len(name) <= _MAX_PARAM_CHARS else f"{name[:_MAX_PARAM_CHARS]}…"


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


def refuse_crowds(body: bytes) -> None:
    """Refuse more objects and lists than anybody needs, before they are made.

    Raises:
        RequestError: there are.
    """
    if body.count(b"{") + body.count(b"[") <= _MAX_CONTAINERS:  # those in texts included
        return
    matches = _TO_NEXT_CONTAINER.finditer(body)
    one_more = next(islice(matches, _MAX_CONTAINERS, None), None)
    if one_more is not None and one_more[0].endswith((b"{", b"[")):
        raise RequestError(
            f"The body holds more than {_MAX_CONTAINERS} objects and arrays; send fewer.",
            code="too_many_values",
        )


def refuse_repeated_keys(body: bytes) -> None:
    """Name a key that occurs twice in one object, at any depth.

    Args:
        body: JSON that has been decoded before.

    Raises:
        RequestError: there is one.
        RecursionError: objects are nested too deeply.
    """
    if not _keeps_its_colons(body):
        # Slow, because it is Python for each object; and numbers stay text, since they are not
        # looked at, and an endless one takes its time.
        json.loads(body, object_pairs_hook=_checked, parse_int=str, parse_float=str)


def _keeps_its_colons(body: bytes) -> bool:
    """Whether reading a body and writing it again leaves all its colons; then no key is repeated.

    Each key has one colon, and of a key that occurs twice one is lost. Those in texts stay, unless
    they are spelled as an escape: then this cannot tell.
    """
    if any(escape in body for escape in _ESCAPED_COLONS):
        return False
    try:
        again = msgspec.json.encode(msgspec.json.decode(body))
    except (msgspec.MsgspecError, UnicodeError):  # a number is too large for anything
        return False
    return again.count(b":") == body.count(b":")


def _checked(pairs: list[tuple[str, Any]]) -> None:
    seen: set[str] = set()
    for key, _ in pairs if len(dict(pairs)) < len(pairs) else ():
        if key in seen:
            shown = key if len(key) <= _MAX_PARAM_CHARS else f"{key[:_MAX_PARAM_CHARS]}…"
            raise RequestError(
                f"The key '{shown}' occurs twice in one object; send it once.",
                param=shown,
                code="duplicate_key",
            )
        seen.add(key)
