"""`test: true`: the loss of an adapter's published weights over the test set."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import mlx.nn as nn
from mlx_lm.tuner.utils import load_adapters

from verse.adapter_folder import AdapterFolderError, read_adapter_folder
from verse.base_model import BaseModel
from verse.prompt import PromptFormat
from verse_trainer.config import TrainConfig
from verse_trainer.encoding import EncodedRow
from verse_trainer.errors import TrainingError
from verse_trainer.evaluation import evaluate
from verse_trainer.events import Event, Tested
from verse_trainer.material import read_test_rows
from verse_trainer.objective import SftObjective


def test(config: TrainConfig, base: BaseModel, on_event: Callable[[Event], None]) -> Tested:
    """Measure the adapter in `adapter_path`, or the base alone if that is empty.

    Raises:
        TrainerError: there is no such adapter, or no test set.
    """
    prompt_format, step = PromptFormat(format=config.prompt_format), 0
    if config.adapter_path:
        folder = Path(config.adapter_path).expanduser()
        prompt_format, step = _load(folder, base.model, prompt_format)
    material = read_test_rows(config, base, prompt_format)
    tested = measure(base.model, material.rows["test"], config, step)
    on_event(tested)
    return tested


def measure(model: nn.Module, rows: Sequence[EncodedRow], config: TrainConfig, step: int) -> Tested:
    """Measure some rows, at least one, with the weights the model has; also after DPO by token."""
    limit = None if config.test_batches < 0 else config.test_batches * config.batch_size
    objective = SftObjective(model, {"test": rows})
    measured = evaluate(model, objective, "test", batch_size=2 * config.batch_size, limit=limit)
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
