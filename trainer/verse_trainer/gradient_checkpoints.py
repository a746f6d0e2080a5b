"""Less memory for more arithmetic: activations inside a block are computed again when needed."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, cast

import mlx.nn as nn
from mlx_lm.tuner import trainer as mlx_lm_trainer


@contextmanager
def gradient_checkpoints(model: nn.Module, *, on: bool) -> Generator[None]:
    """mlx-lm's patch of the class of the model's blocks, taken back at the end."""
    if not on:
        yield
        return
    block = cast(Any, model).layers[0]
    original = type(block).__call__
    cast(Any, mlx_lm_trainer).grad_checkpoint(block)
    try:
        yield
    finally:
        type(block).__call__ = original
