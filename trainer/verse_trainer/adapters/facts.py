"""What an adapter folder tells about itself: for `list` and `show`. No tensor is read here."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from verse.adapter_config import MlxConfig, PeftConfig
from verse.adapter_digest import adapter_digest, file_digest
from verse.adapter_files import AdapterFileError, AdapterPlan, plan_adapter
from verse.adapter_folder import CONFIG_FILE, AdapterFolder
from verse_trainer.adapters.folders import AdapterEntry

RUN_FILE = "run.json"


class Evaluation(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of `history` in adapter_config.json; losses in nats per token."""

    step: int
    train_loss: float | None = None
    valid_loss: float | None = None


class Training(msgspec.Struct, frozen=True, kw_only=True):
    """What `verse train` adds to adapter_config.json; mlx-lm alone records nothing of it."""

    base_valid_loss: float | None = None
    best_step: int | None = None
    history: tuple[Evaluation, ...] = ()

    @property
    def best(self) -> Evaluation | None:
        """The evaluation of the best step; the lowest one where none is named."""
        by_step = {entry.step: entry for entry in self.history}
        if self.best_step in by_step:
            return by_step[self.best_step]
        scored = [entry for entry in self.history if entry.valid_loss is not None]
        return min(scored, key=lambda entry: entry.valid_loss or 0.0, default=None)


class AdapterSummary(msgspec.Struct, frozen=True, kw_only=True):
    """One line of `list`; a folder that cannot even be read has a problem and nothing else."""

    name: str
    problem: str | None = None
    format: str | None = None
    rank: int | None = None
    scale: float | None = None
    checkpoints: tuple[int, ...] = ()
    best_step: int | None = None
    valid_loss: float | None = None
    base: str | None = None
    num_bytes: int = 0
    modified: float | None = None
    """Seconds since 1970, of the newest weights."""


class CheckpointFacts(msgspec.Struct, frozen=True, kw_only=True):
    """One file of weights; `step` is None for the published one."""

    step: int | None
    file: str
    num_bytes: int
    digest: str
    train_loss: float | None = None
    valid_loss: float | None = None
    problem: str | None = None
    notes: tuple[str, ...] = ()
    """What of it the server leaves out."""


class ModuleNorm(msgspec.Struct, frozen=True, kw_only=True):
    """How much one layer is changed."""

    module: str
    in_dims: int
    out_dims: int
    rank: int
    delta_norm: float

    @property
    def block(self) -> int | None:
        """The number of the block it is in; None outside of the blocks."""
        return split_block(self.module)[0]

    @property
    def kind(self) -> str:
        """Its path inside the block: the same layer of every block."""
        return split_block(self.module)[1]


class Details(msgspec.Struct, frozen=True, kw_only=True):
    """All that `show` knows of an adapter."""

    summary: AdapterSummary
    config: dict[str, Any]
    prompt_format: Any
    run: dict[str, Any] | None
    base_valid_loss: float | None
    checkpoints: tuple[CheckpointFacts, ...]
    warnings: tuple[str, ...]


def summarize(entry: AdapterEntry) -> AdapterSummary:
    """What one line can say of a folder, sound or broken."""
    if entry.folder is None:
        return AdapterSummary(name=entry.name, problem=entry.problem)
    config, training = entry.folder.config, _training(entry.folder)
    best = training.best
    files = _weights(entry.folder)
    # As the server judges it: without published weights, by the newest checkpoint.
    plan = _plan(entry.folder.published or [*files.values()][-1], entry.folder)
    return AdapterSummary(
        name=entry.name,
        problem=plan if isinstance(plan, str) else None,
        format=_format(config),
        rank=config.r if isinstance(config, PeftConfig) else config.rank_of(""),
        scale=config.scale_of(""),
        checkpoints=tuple(entry.folder.checkpoints),
        best_step=training.best_step,
        valid_loss=best.valid_loss if best else None,
        base=config.recorded_base,
        num_bytes=sum(file.stat().st_size for file in files.values()),
        modified=max(file.stat().st_mtime for file in files.values()),
    )


def describe(folder: AdapterFolder) -> Details:
    """All that the files say, with what is doubtful about them."""
    training, run = _training(folder), _read_object(folder.path / RUN_FILE)
    losses: dict[int | None, Evaluation] = {entry.step: entry for entry in training.history}
    checkpoints = tuple(
        _checkpoint(folder, step, file, losses.get(training.best_step if step is None else step))
        for step, file in _weights(folder).items()
    )
    return Details(
        summary=summarize(AdapterEntry(folder.name, folder.path, folder)),
        config=_read_object(folder.path / CONFIG_FILE) or {},
        prompt_format=folder.prompt_format,
        run=run,
        base_valid_loss=training.base_valid_loss,
        checkpoints=checkpoints,
        warnings=tuple(_warnings(folder, training, checkpoints)),
    )


def split_block(path: str) -> tuple[int | None, str]:
    """The number of the block a module is in, and its path inside; None and all of it outside."""
    parts = path.split(".")
    for place, part in enumerate(parts[:-1]):
        if part.isdecimal():
            return int(part), ".".join(parts[place + 1 :])
    return None, path


def _format(config: MlxConfig | PeftConfig) -> str:
    dialect = "PEFT" if isinstance(config, PeftConfig) else "mlx"
    return f"{dialect} DoRA" if config.uses_dora else dialect


def _weights(folder: AdapterFolder) -> dict[int | None, Path]:
    """Every file of weights by step, the published one first."""
    published: dict[int | None, Path] = {None: folder.published} if folder.published else {}
    return published | dict(folder.checkpoints)


def _training(folder: AdapterFolder) -> Training:
    """Nothing where the keys are missing, or are some other program's."""
    try:
        return msgspec.json.decode((folder.path / CONFIG_FILE).read_bytes(), type=Training)
    except msgspec.ValidationError:
        return Training()


def _read_object(file: Path) -> dict[str, Any] | None:
    """A JSON object as it is; None where there is none."""
    try:
        return msgspec.json.decode(file.read_bytes(), type=dict[str, Any])
    except (OSError, ValueError):
        return None


def _checkpoint(
    folder: AdapterFolder, step: int | None, file: Path, losses: Evaluation | None
) -> CheckpointFacts:
    plan = _plan(file, folder)
    return CheckpointFacts(
        step=step,
        file=file.name,
        num_bytes=file.stat().st_size,
        digest=adapter_digest(folder.path, file_digest(file)),
        train_loss=losses.train_loss if losses else None,
        valid_loss=losses.valid_loss if losses else None,
        problem=plan if isinstance(plan, str) else None,
        notes=() if isinstance(plan, str) else plan.notes,
    )


def _plan(file: Path, folder: AdapterFolder) -> AdapterPlan | str:
    try:
        return plan_adapter(file, folder.config, None)
    except AdapterFileError as error:
        return str(error)


def _warnings(
    folder: AdapterFolder, training: Training, checkpoints: tuple[CheckpointFacts, ...]
) -> Iterator[str]:
    if folder.prompt_format is None:
        yield "prompt.json is missing; the server will assume the chat format."
    if folder.unread_prompt_keys:
        yield f"prompt.json has unknown keys: {', '.join(folder.unread_prompt_keys)}."
    if folder.published is None:
        yield f"there are no published weights; ask for {folder.name}@last."
    if folder.config.recorded_base is None:
        yield "no base model is recorded, so it is not known which model it belongs to."
    if (folder.path / RUN_FILE).exists() and _read_object(folder.path / RUN_FILE) is None:
        yield f"{RUN_FILE} cannot be read."
    best = training.best_step
    if best is not None and folder.checkpoints and best not in folder.checkpoints:
        yield f"the best step {best} has no numbered file; the published weights stand in for it."
    yield from _scale_warnings(folder)
    for checkpoint in checkpoints:
        if checkpoint.problem:
            yield f"{checkpoint.file} cannot be served: {checkpoint.problem}"
    yield from dict.fromkeys(f"{note}." for checkpoint in checkpoints for note in checkpoint.notes)


def _scale_warnings(folder: AdapterFolder) -> Iterator[str]:
    if not isinstance(folder.config, MlxConfig) or folder.config.lora_parameters is None:
        return
    parameters = folder.config.lora_parameters
    if parameters.alpha is None:
        return
    by_alpha = parameters.alpha / parameters.rank
    if parameters.scale is None:
        yield f"no scale is recorded; alpha / rank = {by_alpha:g} is used, as in PEFT."
    elif parameters.scale != by_alpha:
        yield f"alpha / rank is {by_alpha:g}; the recorded scale {parameters.scale:g} is used."
