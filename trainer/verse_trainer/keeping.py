"""All that a run writes, in the one order that leaves nothing half done.

The state is written first: whatever a kill prevents after that is made up for from it. What others
read follows: the checkpoint, the published weights, and the configuration that names the best.
"""

from collections.abc import Callable

import msgspec

from verse.adapter_folder import checkpoint_file
from verse_trainer import plot, records, run_record
from verse_trainer.events import Event, Saved, Stopped, StopReason
from verse_trainer.prepared import PreparedRun
from verse_trainer.train_state import TrainState
from verse_trainer.training_state import Arrays, TrainingState, write_state


class Keeper:
    """Writes the folder of one run and passes its events on.

    All methods raise OSError when the disk is full or read-only.
    """

    def __init__(self, prepared: PreparedRun, on_event: Callable[[Event], None]) -> None:
        self._run = prepared
        self._folder = prepared.folder
        self._publication = prepared.publication
        self._record = prepared.record
        self._on_event = on_event
        self._saved_step = None if prepared.state is None else prepared.state.standing.step

    @property
    def saved_step(self) -> int | None:
        """From which the run could be resumed; None if there was no step to save."""
        return self._saved_step

    def open(self) -> None:
        """Make the folder ready; what was told of steps to be taken again is dropped."""
        self._folder.mkdir(parents=True, exist_ok=True)
        if self._run.is_resumed:
            resumed = (*self._record.resumed, self._run.start_step)
            self._record = msgspec.structs.replace(self._record, resumed=resumed)
            records.rewind(self._folder, self._saved_step)
        run_record.write_record(self._folder, self._record)
        self._publication.write_prompt(self._run.material.prompt_format)
        if self._run.state is None:
            self._publication.describe(TrainState())
        else:
            self._publish(self._run.state.standing, self._run.state.checkpoint)

    def tell(self, event: Event) -> None:
        """Write an event down, if it is of a kind that is kept, and pass it on."""
        records.append(self._folder, event)
        self._on_event(event)

    def save(self, state: TrainingState) -> None:
        """Make sure of the state, then let its checkpoint appear."""
        write_state(self._folder, state)
        self._saved_step = state.standing.step
        self._publish(state.standing, state.checkpoint)
        path = self._folder / checkpoint_file(state.standing.step)
        self.tell(Saved(step=state.standing.step, path=str(path)))

    def published_weights(self) -> Arrays:
        """The weights behind the adapter's name."""
        return self._publication.published_weights()

    def describe(self, standing: TrainState) -> None:
        """Bring `adapter_config.json` up to date."""
        self._publication.describe(standing)

    def close(self, standing: TrainState, reason: StopReason) -> None:
        """Write down how it ended."""
        if self._saved_step is not None and reason != "nan":
            self._publication.describe(standing)
        unit = "pair" if self._run.config.method == "dpo" else "token"
        plot.draw(self._folder, records.read_metrics(self._folder), unit)
        self._record = msgspec.structs.replace(
            self._record,
            finished=run_record.now(),
            outcome=reason,
            step=standing.step,
            best_step=standing.best_step,
            best_valid_loss=standing.best_valid_loss,
            base_valid_loss=standing.base_valid_loss,
        )
        run_record.write_record(self._folder, self._record)
        self.tell(Stopped(step=standing.step, reason=reason))

    def what_is_kept(self) -> str:
        """For errors."""
        if self._saved_step is None:
            return "no checkpoint had been saved."
        return f"the checkpoint of step {self._saved_step} and those before are whole."

    def _publish(self, standing: TrainState, weights: Arrays) -> None:
        self._publication.keep(standing.step, weights)
        if standing.best_step in (None, standing.step) or not self._publication.is_published:
            self._publication.publish(weights)
            self._publication.describe(standing)
