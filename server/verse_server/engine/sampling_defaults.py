"""A base's own sampling defaults, as vLLM takes them from generation_config.json."""

from typing import Any

import msgspec

from verse_server.engine.errors import StartupError
from verse_server.engine.types import SamplingParams

_NAMES = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")


def sampling_defaults(generation_config: dict[str, Any]) -> SamplingParams:
    """What a request gets that leaves these out.

    Raises:
        StartupError: one of them is not what it should be.
    """
    given = {n: generation_config[n] for n in _NAMES if generation_config.get(n) is not None}
    if generation_config.get("do_sample") is False:
        given["temperature"] = 0.0
    if given.get("top_k") == -1:
        given["top_k"] = 0
    try:
        params = msgspec.convert(given, SamplingParams)
    except msgspec.ValidationError as error:
        raise StartupError(f"The model's generation_config.json is wrong: {error}.") from error
    shares = all(0 <= share <= 1 for share in (params.top_p, params.min_p))
    if not shares or params.top_k < 0 or params.temperature < 0 or params.repetition_penalty <= 0:
        raise StartupError(f"The model's generation_config.json is out of bounds: {given}.")
    return params
