"""How long a row is and how well its characters encode, by a base model's own tokenizer."""

import sys
from functools import cache
from typing import Any, cast

from verse.base_model import BaseTokenizer
from verse.prompt import Message, PromptFormat, render

_NEIGHBOUR = "一"
"""Some tokenizers put a mark before the first character; it is no part of what is measured."""


class TokenizerMeasure:
    """A `Measure`; the frame is the model's own chat template."""

    def __init__(self, base: BaseTokenizer) -> None:
        self._tokenizer = base.tokenizer
        tokenizer = cast(Any, base.tokenizer)
        # It would warn of long texts; here their length is what is asked for.
        tokenizer.model_max_length = sys.maxsize
        self._unknown = tokenizer.unk_token_id
        self._is_hard = cache(self._spelt_in_pieces)

    def num_tokens(self, messages: tuple[Message, ...]) -> int:
        """Of the whole conversation, frame included.

        Raises:
            PromptError: the chat template refuses it.
        """
        return len(render(messages, PromptFormat(), self._tokenizer).token_ids)

    def hard_characters(self, text: str) -> list[str]:
        """Characters without a token of their own, each once, in order."""
        characters = dict.fromkeys(c for c in text if not c.isspace())
        return [character for character in characters if self._is_hard(character)]

    def _spelt_in_pieces(self, character: str) -> bool:
        with_it = self._encode(_NEIGHBOUR + character)
        num_own = len(with_it) - len(self._encode(_NEIGHBOUR))
        return num_own > 1 or self._unknown in with_it

    def _encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False)
