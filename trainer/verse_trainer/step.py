"""The arithmetic of one step: gradients of a batch, and an update once enough have been summed.

Random numbers follow from seed and step alone: what is drawn elsewhere, for a sample or by whoever
shares the process, changes nothing, and step 38 after a kill drops what it would have dropped.
"""

import hashlib
from collections.abc import Generator
from contextlib import contextmanager
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple, cast

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import msgspec
import numpy as np
from mlx.utils import (
    tree_flatten,  # pyright: ignore[reportUnknownVariableType]
    tree_unflatten,
)
from mlx_lm.tuner import trainer as mlx_lm_trainer
from mlx_lm.tuner import utils as mlx_lm_tuner

from verse.base_model import runs_on_cpu
from verse_trainer.config import TrainConfig, complete_schedule
from verse_trainer.data_parallel import DataParallel
from verse_trainer.errors import ConfigError
from verse_trainer.gate import HostGates
from verse_trainer.objective import Batch, HiddenLoss, Objective


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


_CLASSES: MappingProxyType[str, Any] = MappingProxyType(
    {
        "adam": optim.Adam,
        "adamw": optim.AdamW,
        "muon": optim.Muon,
        "sgd": optim.SGD,
        "adafactor": optim.Adafactor,
    }
)
# mlx leaves it out by default; the first update is then 3.2 times as long as elsewhere.
_DEFAULTS: MappingProxyType[str, dict[str, Any]] = MappingProxyType(
    {"adam": {"bias_correction": True}, "adamw": {"bias_correction": True}}
)


def make_optimizer(config: TrainConfig, num_updates: int) -> optim.Optimizer:
    """The optimizer of a run that makes `num_updates` updates; schedules count updates.

    Raises:
        ConfigError: an argument of the optimizer or the schedule means nothing to it.
    """
    name = config.optimizer
    arguments = {**_DEFAULTS.get(name, {}), **config.optimizer_config.get(name, {})}
    try:
        return _CLASSES[name](learning_rate=_learning_rate(config, num_updates), **arguments)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"optimizer_config.{name} cannot be used: {error}.") from error


def _learning_rate(config: TrainConfig, num_updates: int) -> Any:
    if config.lr_schedule is None:
        return config.learning_rate
    complete = complete_schedule(config.lr_schedule, config.learning_rate, num_updates)
    try:
        return cast(Any, mlx_lm_tuner).build_schedule(msgspec.to_builtins(complete))
    except (AttributeError, IndexError, TypeError, ValueError) as error:
        raise ConfigError(f"lr_schedule cannot be used: {error}.") from error


Arrays = dict[str, mx.array]
_NOTHING: tuple[Arrays, float] = ({}, 0.0)


class StepResult(NamedTuple):
    """What one batch gave."""

    loss: float
    """Sum over its examples."""
    figures: list[float]
    """Sums over its examples of the objective's figures."""


class Stepper:
    """Holds what changes from step to step beside the weights: optimizer and summed gradients."""

    def __init__(
        self,
        model: nn.Module,
        objective: Objective,
        optimizer: Any,
        seed: int,
        saved: tuple[Arrays, float] = _NOTHING,
        parallel: DataParallel | None = None,
    ) -> None:
        """Begin, or go on from what `save` gave; with other ranks, if there are any."""
        self._model = model
        self._objective = objective
        self._optimizer = optimizer
        self._seed = seed
        self._parallel = parallel or DataParallel()
        arrays, self._weight = saved
        # What is saved is the sum over all ranks, so one of them goes on with it.
        self._gradients = _part("gradients", arrays) if self._parallel.is_first else {}
        if state := _part("optimizer", arrays):
            optimizer.state = tree_unflatten(list(state.items()))
        optimizer.init(model.trainable_parameters())
        # The model is an output of both: while it is traced, its weights are placeholders.
        drawing = [model.state, mx.random.state]
        changing = [model.state, optimizer.state]
        self._compute = partial(mx.compile, inputs=drawing, outputs=drawing)(self._differentiate)
        self._update = partial(mx.compile, inputs=changing, outputs=changing)(self._apply)
        if not objective.row_loss.is_traceable:
            self._compute = self._differentiate_at_once
        if runs_on_cpu():
            # There mlx calls a C++ compiler for each kernel: more seconds than updates ever take.
            self._update = self._apply

    @property
    def learning_rate(self) -> float:
        """Of the last update; of the first one before it."""
        return float(self._optimizer.learning_rate.item())

    def step(
        self, number: int, batch: Batch | None, weight: float, *, is_update: bool
    ) -> StepResult:
        """Learn from one batch; of several ranks, each from its share.

        Args:
            number: Of the step; decides its dropout.
            batch: From the objective; None for a share of no examples.
            weight: Of an average batch; the gradients' sum is divided by it. Dividing by this
                batch's own would make the tokens of short poems, which share batches, count more.
            is_update: Change the weights now, with all gradients since the last update.
        """
        self._model.train(self._objective.has_dropout)
        mx.random.seed(_seed_of(self._seed, number, self._parallel.rank))
        if batch is None:
            loss, figures, gradients = mx.array(0.0), mx.zeros(self._objective.num_figures), {}
        else:
            loss, figures, gradients = self._compute(*batch)
        for name, gradient in self._gradients.items():
            gradients[name] = gradients[name] + gradient if name in gradients else gradient
        self._gradients, self._weight = gradients, self._weight + weight
        if is_update:
            self.update()
        self._evaluate(loss, figures)
        numbers = [cast(float, loss.item()), *cast(list[float], figures.tolist())]
        summed_loss, *summed_figures = self._parallel.sum_numbers(numbers)
        return StepResult(summed_loss, summed_figures)

    def update(self) -> None:
        """Change the weights with all gradients since the last update; there must be some."""
        self._update(self._summed_gradients(), mx.array(self._weight))
        self._gradients, self._weight = {}, 0.0
        self._evaluate()

    def save(self) -> tuple[Arrays, float]:
        """Everything but the weights: arrays by name, and what summed gradients are divided by.

        The same on all ranks, which must all ask for it.
        """
        gradients = self._summed_gradients() if self._weight else {}
        parts = {"optimizer": _flat(self._optimizer.state), "gradients": gradients}
        named = {
            f"{part}.{n}": array for part, arrays in parts.items() for n, array in arrays.items()
        }
        return named, self._weight

    def _summed_gradients(self) -> Arrays:
        if self._parallel.is_alone:
            return self._gradients
        weights = _flat(cast(Any, self._model).trainable_parameters())
        none = {name: mx.zeros_like(array) for name, array in weights.items()}
        return self._parallel.sum_arrays({**none, **self._gradients})

    def _evaluate(self, *others: mx.array) -> None:
        weights = cast(Any, self._model).trainable_parameters()
        cast(Any, mx).eval(*others, weights, self._optimizer.state, self._gradients)

    def _differentiate(self, *batch: mx.array) -> tuple[mx.array, mx.array, Arrays]:
        differentiate = cast(Any, nn).value_and_grad(self._model, self._loss)
        (loss, figures), gradients = differentiate(*batch)
        return loss, figures, _flat(gradients)

    def _differentiate_at_once(self, *batch: mx.array) -> tuple[mx.array, mx.array, Arrays]:
        """The same where the loss of hidden states is not a part of the graph.

        The graph of the gradients is made with room for the gradient of the hidden states, the
        hidden states are evaluated, and what follows from them is written into that room. To
        evaluate them while a gradient is traced would keep every array there ever was.
        """
        row_loss = cast(HiddenLoss, self._objective.row_loss)
        room = mx.array(np.zeros(row_loss.shape_of_hidden(batch), np.float32))
        gates = HostGates()

        def weighted(*_: mx.array) -> tuple[mx.array, mx.array]:
            hidden = row_loss.hidden(batch, gates)
            return (hidden * room).sum(), hidden

        (_, hidden), gradients = cast(Any, nn).value_and_grad(self._model, weighted)()
        gates.compute()
        cast(Any, mx).eval(hidden)
        losses, directions = row_loss.of_hidden(hidden, batch, with_gradient=True)

        def summed(of_targets: mx.array) -> tuple[mx.array, mx.array]:
            of_examples, figures = self._objective.of_rows(
                row_loss.of_rows(of_targets, batch), batch
            )
            return of_examples.sum(), figures.sum(axis=0)

        (loss, figures), shares = cast(Any, mx).value_and_grad(summed)(losses)
        np.array(room, copy=False)[:] = np.array(directions * shares[:, None])
        return loss, figures, _flat(gradients)

    def _loss(self, *batch: mx.array) -> tuple[mx.array, mx.array]:
        losses, figures = self._objective.losses(self._model, batch)
        return losses.sum(), figures.sum(axis=0)

    def _apply(self, gradients: Arrays, weight: mx.array) -> None:
        means = [(name, gradient / weight) for name, gradient in gradients.items()]
        self._optimizer.update(self._model, tree_unflatten(means))


def _seed_of(seed: int, step: int, rank: int) -> int:
    """64 bits that differ for every step and rank, and from the seed of the first weights."""
    drawn_for = f"{seed}/{step}" if rank == 0 else f"{seed}/{step}/{rank}"
    return int.from_bytes(hashlib.sha256(drawn_for.encode()).digest()[:8], "big")


def _flat(tree: Any) -> Arrays:
    return dict(cast(list[tuple[str, mx.array]], tree_flatten(tree)))


def _part(name: str, arrays: Arrays) -> Arrays:
    start = f"{name}."
    return {n.removeprefix(start): array for n, array in arrays.items() if n.startswith(start)}
