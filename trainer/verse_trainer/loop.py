"""The loop: steps, reports, evaluations, checkpoints, until the end or until someone says stop.

What happens after step N, in this order: the loss is reported; the valid set is measured; poems are
written; the state is saved; the checkpoint appears. A kill at any point leaves the state of an
earlier step, from which all later ones follow again, bit for bit.

The last step also makes an update of the gradients that are left. What is saved to go on from is
the state before that update, so that a run made longer is the longer run.
"""

import copy
import errno
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import mlx.core as mx
from mlx_lm.utils import maybe_set_recommended_wired_limit

from verse_trainer import lora
from verse_trainer.checkpoint import Arrays, CheckpointWriter, FollowingWriter, SavedState
from verse_trainer.dpo import DpoObjective
from verse_trainer.errors import TrainingError
from verse_trainer.evaluation import Measured, PoemSampler, clear_cache, evaluate, measure
from verse_trainer.events import (
    Caching,
    Evaluated,
    Event,
    Started,
    Stepped,
    StopReason,
    TrainReport,
)
from verse_trainer.material import hash_of
from verse_trainer.objective import WholeLoss
from verse_trainer.step import Stepper, gradient_checkpoints, make_optimizer
from verse_trainer.train_state import Throughput, TrainState, Window

if TYPE_CHECKING:
    from verse_trainer.run import PreparedRun

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a run ended."""

    step: int
    reason: StopReason
    best_step: int | None
    """None where there is no valid set."""
    best_valid_loss: float | None
    base_valid_loss: float | None
    adapter_path: Path


class _NaNError(Exception):
    """The loss or the weights are not finite."""


class TrainingLoop:
    """One run, from its first step in this process to its last."""

    def __init__(
        self,
        prepared: "PreparedRun",
        on_event: Callable[[Event], None],
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._run = prepared
        self._config = prepared.config
        self._model = prepared.base.model
        self._objective = prepared.objective
        self._parallel = prepared.parallel
        kind = CheckpointWriter if self._parallel.is_first else FollowingWriter
        self._writer = kind(prepared, on_event)
        self._clock = clock
        self._throughput = Throughput()
        self._batch_weight = prepared.batch_weight
        saved = prepared.saved
        self._state = TrainState() if saved is None else copy.deepcopy(saved.state)
        self._endless = prepared.cadence.endless
        self._before_flush: tuple[Arrays, Arrays, float] | None = None
        """Weights and stepper before the update that only the end of the run brings."""

    def run(self, stop: Callable[[], bool]) -> Outcome:
        """Train.

        Raises:
            TrainingError: the loss is NaN, or the disk is full.
        """
        maybe_set_recommended_wired_limit()
        try:
            is_patched = self._config.grad_checkpoint and isinstance(self._run.row_loss, WholeLoss)
            with gradient_checkpoints(self._model, on=is_patched):
                self._begin()
                reason = self._train(stop)
                return self._end(reason)
        except OSError as error:
            if error.errno in _NO_SPACE:
                raise TrainingError(
                    f"The disk of {self._run.folder} is full; {self._writer.what_is_kept()} "
                    "Free some space and continue with the same command and --resume."
                ) from error
            raise
        finally:
            if (cache := self._run.layer_cache) is not None:
                cache.close()

    def _begin(self) -> None:
        self._writer.open()
        self._run.fill_cache(lambda share: self._writer.report(Caching(share=share)))
        self._refer_to_start()
        self._stepper = self._restored_stepper()
        self._writer.report(
            Started(
                steps=self._run.total_steps,
                epochs=self._run.cadence.epochs,
                updates=self._run.total_updates,
                start_step=self._state.step,
            )
        )

    def _restored_stepper(self) -> Stepper:
        optimizer = make_optimizer(self._config, self._run.total_updates)
        saved, seed = self._run.saved, self._config.seed
        if saved is None:
            return Stepper(self._model, self._objective, optimizer, seed, parallel=self._parallel)
        is_over = saved.state.step >= self._run.total_steps
        weights = saved.checkpoint if is_over else saved.weights
        self._model.load_weights(list(weights.items()), strict=False)
        pending = (saved.stepper, saved.summed_weight)
        return Stepper(
            self._model, self._objective, optimizer, seed, pending, parallel=self._parallel
        )

    def _refer_to_start(self) -> None:
        """DPO: the references, while the model has the weights the run starts from."""
        if isinstance(self._objective, DpoObjective):
            identity = self._run.record.identity
            run = hash_of(identity.base, identity.start, identity.train_rows, identity.valid_rows)
            width = 2 * self._config.batch_size
            self._objective.refer_to(self._model, self._run.folder, run, width, self._parallel)

    def _train(self, stop: Callable[[], bool]) -> StopReason:
        try:
            if self._state.step == 0:
                self._measure_start()
            self._measure_former_end()
            self._end_where_stopped()
            while self._state.step < self._run.total_steps:
                if self._state.is_over(self._config.patience):
                    return "early_stop"
                if self._parallel.any(stop()):
                    self._save_if_new()
                    return "interrupted"
                self._take_step()
                self._after_step()
        except _NaNError:
            return "nan"
        return "finished"

    def _measure_start(self) -> None:
        loss = self._evaluate()
        if loss is not None and self._config.resume_adapter_file is None:
            self._state.base_valid_loss = loss
        self._writer.describe(self._state)

    def _measure_former_end(self) -> None:
        """Where the run ended, the longer run has other weights: their loss counts for it."""
        state = self._state
        step, is_longer = state.step, state.step < self._run.total_steps
        if is_longer and step in state.ends and self._endless.is_checkpoint(step):
            measured = self._measure_valid()
            state.ends[step] = None if measured is None else measured.loss

    def _end_where_stopped(self) -> None:
        """What the last step brings, if the run was stopped right after it."""
        saved, state = self._run.saved, self._state
        if saved is None or state.step < self._run.total_steps:
            return
        if saved.lacks_update:
            self._flush()
        if state.since_report.examples and not self._writer.has_report(state.step):
            self._report()
        if self._run.lacks_end:
            self._measure_and_save()

    def _flush(self) -> None:
        """Make the update that only the end of the run brings."""
        self._before_flush = (lora.trainable(self._model), *self._stepper.save())
        self._stepper.update()

    def _take_step(self) -> None:
        begin = self._clock()
        number = self._state.step + 1
        indices = self._run.batches.batch(number)
        weight = self._run.weight_of(indices)
        share = self._run.share_of(indices)
        result = self._stepper.step(
            number,
            self._objective.batch("train", share) if share else None,
            self._batch_weight,
            is_update=self._endless.is_update(number),
        )
        if number == self._run.total_steps and not self._endless.is_update(number):
            self._flush()
        clear_cache(self._config.clear_cache_threshold)
        if not math.isfinite(result.loss):
            raise _NaNError
        tokens = self._run.tokens_of(indices)
        self._state.count(
            result.loss, result.figures, weight=weight, tokens=tokens, examples=len(indices)
        )
        self._throughput.step(self._clock() - begin, tokens)
        self._writer.report(Stepped(step=number, loss=result.loss / weight, tokens=tokens))

    def _after_step(self) -> None:
        if self._run.cadence.is_report(self._state.step):
            self._report()
        self._measure_and_save()

    def _measure_and_save(self) -> None:
        step, cadence = self._state.step, self._run.cadence
        is_checkpoint = cadence.is_checkpoint(step)
        if is_checkpoint:
            self._check_weights()
            self._evaluate()
        if cadence.is_sample(step):
            self._write_samples()
        if is_checkpoint:
            self._save()

    def _report(self) -> None:
        state, window = self._state, self._state.since_report
        left = self._run.total_steps - state.step
        evaluations_left = self._run.cadence.num_checkpoints_after(state.step)
        self._writer.report(
            TrainReport(
                step=state.step,
                epoch=state.step / self._run.steps_per_epoch,
                train_loss=window.mean_loss,
                learning_rate=self._stepper.learning_rate,
                tokens_per_second=self._throughput.tokens_per_second,
                iterations_per_second=self._throughput.steps_per_second,
                trained_tokens=state.trained_tokens,
                peak_memory_bytes=mx.get_peak_memory(),
                eta_seconds=self._throughput.seconds_left(left, evaluations_left),
                preference=self._objective.preference(window.mean_figures),
            )
        )
        if self._endless.is_report(state.step):
            state.since_report = Window()
        self._throughput.next_window()

    def _evaluate(self) -> float | None:
        """Measure the valid set, enter the checkpoint if there were steps, and report it."""
        step, begin = self._state.step, self._clock()
        measured = self._measure_valid()
        loss = None if measured is None else measured.loss
        is_best = step > 0 and self._state.record(
            loss,
            is_due=self._endless.is_checkpoint(step),
            is_flushed=self._before_flush is not None,
        )
        if measured is not None:
            seconds = self._clock() - begin
            self._throughput.evaluation(seconds)
            self._writer.report(
                Evaluated(
                    step=step,
                    valid_loss=measured.loss,
                    standard_error=measured.standard_error,
                    seconds=seconds,
                    is_best=is_best,
                    preference=measured.preference,
                )
            )
        return loss

    def _measure_valid(self) -> Measured | None:
        config = self._config
        limit = None if config.val_batches < 0 else config.val_batches * config.batch_size
        measured = evaluate(
            self._model,
            self._objective,
            "valid",
            batch_size=2 * config.batch_size,
            limit=limit,
            parallel=self._parallel,
        )
        if measured is not None and not math.isfinite(measured.loss):
            raise _NaNError
        return measured

    def _write_samples(self) -> None:
        if not self._parallel.is_first:  # the others wait for the next step
            return
        material = self._run.material
        max_tokens = max(row.weight for row in material.rows["train"]) * 3 // 2
        sampler = PoemSampler(
            self._run.base, material.prompt_format, material.poems, max_tokens, self._config.seed
        )
        for sample in sampler.write(self._config.sample_themes, self._state.step):
            self._writer.report(sample)

    def _check_weights(self) -> None:
        arrays = lora.trainable(self._model).values()
        if not all(mx.isfinite(array).all().item() for array in arrays):
            raise _NaNError

    def _save_if_new(self) -> None:
        if self._state.step not in (0, self._writer.saved_step):
            self._check_weights()
            self._save()

    def _save(self) -> None:
        weights = lora.trainable(self._model)
        before, stepper, summed_weight = self._before_flush or (weights, *self._stepper.save())
        self._writer.save(
            SavedState(
                state=self._state,
                weights=before,
                stepper=stepper,
                summed_weight=summed_weight,
                flushed=weights if self._before_flush else {},
            )
        )

    def _end(self, reason: StopReason) -> Outcome:
        state = self._state
        if reason in ("finished", "early_stop"):
            self._test()
            self._run.discard_cache()
        self._writer.close(state, reason)
        if reason == "nan" and self._parallel.is_first:
            raise TrainingError(
                f"The loss is NaN after step {state.step}; "
                f"{self._writer.what_is_kept()} Start a new run with a lower learning_rate."
            )
        return Outcome(
            step=state.step,
            reason=reason,
            best_step=state.best_step,
            best_valid_loss=state.best_valid_loss,
            base_valid_loss=state.base_valid_loss,
            adapter_path=self._run.folder,
        )

    def _test(self) -> None:
        """Measure the test set, if one is asked for, with the published weights."""
        if rows := self._run.material.rows.get("test"):
            if self._parallel.is_first:
                weights = self._writer.published_weights()
                self._model.load_weights(list(weights.items()), strict=False)
            lora.take_from_first(self._model, self._parallel)
            step = self._state.best_step or self._state.step
            tested = measure(
                self._model, self._run.row_loss, rows, self._config, step, self._parallel
            )
            self._writer.report(tested)
