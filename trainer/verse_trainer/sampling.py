"""Poems on the way: the same themes and seeds at each checkpoint, and what they copied."""

from collections.abc import Iterable, Iterator
from typing import Any, cast

import mlx.core as mx
from mlx_lm.generate import (
    stream_generate,  # pyright: ignore[reportUnknownVariableType]
)
from mlx_lm.sample_utils import make_sampler

from verse.base_model import BaseModel
from verse.prompt import Message, PromptFormat, render
from verse.similarity import CopyIndex
from verse_trainer.events import Sampled

_TEMPERATURE, _TOP_P = 0.8, 0.95


class Sampler:
    """Writes with the model that is being trained."""

    def __init__(
        self,
        base: BaseModel,
        prompt_format: PromptFormat,
        poems: Iterable[tuple[str, str]],
        max_tokens: int,
        seed: int,
    ) -> None:
        """`poems` are (source, text) of what was learned, to find copies of."""
        self._base = base
        self._prompt_format = prompt_format
        self._max_tokens = max_tokens
        self._seed = seed
        self._copies = CopyIndex()
        for source, text in poems:
            self._copies.add(source, text)

    def write(self, themes: Iterable[str], step: int) -> Iterator[Sampled]:
        """One poem for each theme; leaves the model in evaluation mode."""
        self._base.model.eval()
        for number, theme in enumerate(themes):
            mx.random.seed(self._seed + number)  # the next training step sets its own
            text = self._poem(theme)
            copy = self._copies.find(text)
            yield Sampled(
                step=step,
                theme=theme,
                text=text,
                copy_run=copy.run if copy else "",
                copy_source=copy.source if copy else "",
            )

    def _poem(self, theme: str) -> str:
        messages = self._prompt_format.with_system([Message("user", theme)])
        prompt = render(
            messages, self._prompt_format, self._base.hf_tokenizer, add_generation_prompt=True
        )
        pieces = cast(Any, stream_generate)(
            self._base.model,
            self._base.tokenizer,
            list(prompt.token_ids),
            max_tokens=self._max_tokens,
            sampler=make_sampler(_TEMPERATURE, top_p=_TOP_P),
        )
        text = "".join(piece.text for piece in pieces)
        return text.removeprefix(self._prompt_format.answer_prefix)
