"""What the weights are worth: the loss over a whole set, and poems written on the way.

Every example of a set counts, whatever it shares a batch with. The poems have the same themes and
seeds at each checkpoint, and are compared with what was learned.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import mlx.core as mx
import mlx.nn as nn
import msgspec
import numpy as np
from mlx_lm.generate import (
    stream_generate,  # pyright: ignore[reportUnknownVariableType]
)
from mlx_lm.sample_utils import make_sampler
from mlx_lm.tuner.utils import load_adapters

from verse.adapter_folder import AdapterFolderError, read_adapter_folder
from verse.base_model import BaseModel
from verse.prompt import Message, PromptFormat, render
from verse.similarity import CopyIndex
from verse_trainer.config import TrainConfig
from verse_trainer.data_parallel import DataParallel
from verse_trainer.encoding import EncodedRow
from verse_trainer.errors import TrainingError
from verse_trainer.events import Event, PreferenceFigures, Sampled, Tested
from verse_trainer.material import read_test_rows
from verse_trainer.objective import Objective, Part, RowLoss, SftObjective


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """A loss and how far to trust it."""

    loss: float
    standard_error: float | None
    """Over examples; None for a single one."""
    preference: PreferenceFigures | None = None


def evaluate(
    model: nn.Module,
    objective: Objective,
    part: Part,
    *,
    batch_size: int,
    limit: int | None = None,
    parallel: DataParallel | None = None,
) -> Measured | None:
    """Measure with dropout off; no random number is drawn.

    Args:
        model: Left in evaluation mode.
        objective: Whose loss.
        part: Of its examples.
        batch_size: Examples at a time; changes the result by rounding only.
        limit: Examples to measure, from the beginning of the file; None for all.
        parallel: The ranks among which they are shared out; all get the same result.

    Returns:
        None if there are no examples.
    """
    examples = objective.examples(part)
    count = len(examples) if limit is None else min(len(examples), limit)
    if count == 0:
        return None
    model.eval()
    parallel = parallel or DataParallel()
    measured = np.zeros((count, 1 + objective.num_figures))
    order = sorted(range(count), key=lambda index: examples[index].length)
    order = order[parallel.rank :: parallel.size]
    for start in range(0, len(order), batch_size):
        indices = order[start : start + batch_size]
        batch_losses, batch_figures = objective.losses(model, objective.batch(part, indices))
        measured[indices, 0] = np.array(batch_losses)
        measured[indices, 1:] = np.array(batch_figures)
    measured = np.reshape(parallel.sum_numbers(measured.ravel().tolist()), measured.shape)
    losses, means = measured[:, 0], measured[:, 1:].mean(axis=0).tolist()
    weights = [examples[index].weight for index in range(count)]
    loss, standard_error = ratio_mean(losses.tolist(), weights)
    return Measured(
        loss=loss, standard_error=standard_error, preference=objective.preference(means)
    )


def ratio_mean(losses: Sequence[float], weights: Sequence[int]) -> tuple[float, float | None]:
    """Mean loss per unit of weight, and its standard error over examples.

    Poems are drawn, not tokens, so the error is that of a ratio of two sums: with n poems and mean
    R, sqrt(n/(n-1) * sum (loss - R * weight)^2) / sum weight (Cochran, Sampling Techniques, 1977,
    section 6.4).
    """
    total = sum(weights)
    mean = math.fsum(losses) / total
    count = len(losses)
    if count < 2:
        return mean, None
    squares = math.fsum((loss - mean * w) ** 2 for loss, w in zip(losses, weights, strict=True))
    return mean, math.sqrt(count / (count - 1) * squares) / total


def clear_cache(threshold_bytes: int) -> None:
    """Give mlx's cached memory back where it has grown too large."""
    if mx.get_cache_memory() > threshold_bytes:
        mx.clear_cache()


def measure_test_set(
    config: TrainConfig, base: BaseModel, on_event: Callable[[Event], None]
) -> Tested:
    """Measure the adapter in `adapter_path`, or the base alone if that is empty.

    Raises:
        TrainerError: there is no such adapter, or no test set.
    """
    prompt_format, step = PromptFormat(format=config.prompt_format), 0
    if config.adapter_path:
        folder = Path(config.adapter_path).expanduser()
        prompt_format, step = _load(folder, base.model, prompt_format)
    material = read_test_rows(config, base, prompt_format)
    row_loss = material.row_loss(base, config)
    tested = measure(base.model, row_loss, material.rows["test"], config, step)
    on_event(tested)
    return tested


def measure(
    model: nn.Module,
    row_loss: RowLoss,
    rows: Sequence[EncodedRow],
    config: TrainConfig,
    step: int,
    parallel: DataParallel | None = None,
) -> Tested:
    """Measure some rows, at least one, with the weights the model has; also after DPO by token."""
    limit = None if config.test_batches < 0 else config.test_batches * config.batch_size
    objective = SftObjective(row_loss, {"test": rows})
    measured = evaluate(
        model,
        objective,
        "test",
        batch_size=2 * config.batch_size,
        limit=limit,
        parallel=parallel,
    )
    assert measured is not None
    return Tested(
        step=step,
        test_loss=measured.loss,
        standard_error=measured.standard_error,
        perplexity=math.exp(min(measured.loss, 700.0)),
    )


def _load(folder: Path, model: nn.Module, fallback: PromptFormat) -> tuple[PromptFormat, int]:
    try:
        adapter = read_adapter_folder(folder)
        load_adapters(model, str(folder))
    except (AdapterFolderError, OSError, ValueError) as error:
        raise TrainingError(f"The adapter in {folder} cannot be loaded: {error}") from error
    best = getattr(adapter.config, "best_step", None)
    return adapter.prompt_format or fallback, best or adapter.last_step or 0


_TEMPERATURE, _TOP_P = 0.8, 0.95


class PoemSampler:
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
