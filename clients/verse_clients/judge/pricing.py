"""What a call costs: prices by genai-prices' offline table, tokens by counting characters."""

import re
from collections.abc import Sequence
from typing import NamedTuple

from verse.prompt import Message

_MILLION = 1_000_000
_CHINESE = re.compile(r"[\u2e80-\uffef]")
_OTHERS_PER_TOKEN = 4.0
_FRAME_TOKENS = 4
"""Around each message."""


class Price(NamedTuple):
    """Dollars for a million tokens."""

    input: float
    output: float

    def of(self, prompt_tokens: float, completion_tokens: float) -> float:
        """Dollars for one call."""
        return (prompt_tokens * self.input + completion_tokens * self.output) / _MILLION


FREE = Price(0.0, 0.0)


def price_of(model: str, base_url: str) -> Price | None:
    """What a model costs at a server; None if nobody knows."""
    # Takes a quarter of a second and is not needed for a server of one's own.
    from genai_prices import Usage, calc_price

    usage = Usage(input_tokens=1000, output_tokens=1000)
    for address in (base_url, None):
        try:
            price = calc_price(usage, model, provider_api_url=address)
        except LookupError:
            continue
        return Price(1000 * float(price.input_price), 1000 * float(price.output_price))
    return None


def likely_tokens(messages: Sequence[Message]) -> float:
    """About what a tokenizer makes of messages: one a Chinese character, one for four others."""
    total = 0.0
    for message in messages:
        chinese = len(_CHINESE.findall(message.content))
        total += chinese + (len(message.content) - chinese) / _OTHERS_PER_TOKEN + _FRAME_TOKENS
    return total


def most_tokens(messages: Sequence[Message]) -> int:
    """What no tokenizer can exceed: one a byte."""
    return sum(len(m.content.encode()) + 4 * _FRAME_TOKENS for m in messages)
