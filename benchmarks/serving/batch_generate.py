"""The upper bound, a process of its own: `mlx_lm.batch_generate` on all requests at once.

It computes what the servers compute and nothing else: no HTTP, no queue, no text before the end.
Like the servers it finds the keys and values of the poem prompt computed already.
"""

import copy
import sys
import time
from itertools import takewhile
from typing import Any

import mlx.core as mx
from mlx_lm import load
from mlx_lm.generate import batch_generate
from mlx_lm.models.cache import make_prompt_cache

from benchmarks.parties import THEMES
from benchmarks.serving.bench import messages
from benchmarks.serving.child import obey


class _Model:
    """A base, with or without an adapter, and the beginning that all prompts share."""

    def __init__(self, path: str, adapter: str | None) -> None:
        self._model, self._tokenizer = load(path, adapter_path=adapter)[:2]
        self._beginning = _common_beginning([self._encode(theme) for theme in THEMES])
        self._cache = make_prompt_cache(self._model)
        mx.eval(self._model(mx.array([self._beginning]), cache=self._cache))

    def run(self, themes: list[str], num_streams: int, tokens: int) -> dict[str, Any]:
        start = time.perf_counter()
        prompts = [self._encode(theme) for theme in themes]
        answers = batch_generate(
            self._model,
            self._tokenizer,
            [prompt[len(self._beginning) :] for prompt in prompts],
            prompt_caches=[copy.deepcopy(self._cache) for _ in prompts],
            max_tokens=tokens,
            return_token_ids=True,
            completion_batch_size=num_streams,
            prefill_batch_size=num_streams,
        )
        seconds = time.perf_counter() - start
        written = sum(len(ids) for ids in answers.token_ids or [])
        return {"seconds": seconds, "tokens": written, "prompt_tokens": sum(map(len, prompts))}

    def _encode(self, theme: str) -> list[int]:
        return self._tokenizer.apply_chat_template(messages(theme), add_generation_prompt=True)


def _common_beginning(prompts: list[list[int]]) -> list[int]:
    at_each_place = zip(*prompts, strict=False)
    return [tokens[0] for tokens in takewhile(lambda tokens: len(set(tokens)) == 1, at_each_place)]


def main() -> None:
    """Arguments: the base, one adapter."""
    path, adapter = sys.argv[1:]
    models = {"base": _Model(path, None), "one": _Model(path, adapter)}

    def handle(command: Any) -> dict[str, Any]:
        model = models["one" if command["requests"][0][1] else "base"]
        themes = [theme for theme, _ in command["requests"]]
        return model.run(themes, command["num_streams"], command["tokens"])

    obey(handle)


if __name__ == "__main__":
    main()
