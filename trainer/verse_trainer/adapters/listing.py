"""What the adapters folder holds, told from the files alone."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import msgspec

from verse.adapter_config import MlxConfig, PeftConfig
from verse.adapter_folder import (
    CONFIG_FILE,
    AdapterFolder,
    AdapterFolderError,
    adapter_digest,
    file_digest,
    read_adapter_folder,
)
from verse.model_spelling import is_adapter_name
from verse_trainer.adapters.factors import Factors, read_factors
from verse_trainer.errors import ConversionError

RUN_FILE = "run.json"


class Checkpoint(msgspec.Struct, frozen=True, kw_only=True):
    """One numbered file and what was measured when it was written."""

    step: int
    train_loss: float | None = None
    valid_loss: float | None = None


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """One line of `verse adapters list`."""

    name: str
    problem: str | None = None
    """Why it cannot be served; everything below is empty then."""
    format: str = ""
    """`mlx-lora`, `mlx-dora`, `peft-lora` or `peft-dora`."""
    rank: int | None = None
    scale: float | None = None
    base: str | None = None
    checkpoints: tuple[Checkpoint, ...] = ()
    best_step: int | None = None
    base_valid_loss: float | None = None
    bytes: int = 0
    modified: float = 0.0
    """Unix seconds of the newest weights."""

    @property
    def valid_loss(self) -> float | None:
        """Of the best checkpoint."""
        return next((c.valid_loss for c in self.checkpoints if c.step == self.best_step), None)


class Details(msgspec.Struct, frozen=True, kw_only=True):
    """What `verse adapters show` adds."""

    summary: Summary
    digest: str
    """Version of the published weights, as the server reports it."""
    prompt: dict[str, Any] | None
    run: dict[str, Any] | None
    modules: dict[str, Factors]
    warnings: tuple[str, ...]


class _History(msgspec.Struct, frozen=True, kw_only=True):
    """The keys of adapter_config.json that our trainer adds for people."""

    history: list[Checkpoint] = []
    base_valid_loss: float | None = None


def summaries(adapters: Path) -> list[Summary]:
    """Every folder, by name.

    Raises:
        ConversionError: the folder of all adapters cannot be read.
    """
    try:
        entries = sorted(adapters.iterdir())
    except OSError as error:
        raise ConversionError(
            f"{adapters} cannot be read ({error.strerror}); name the folder with --adapters."
        ) from error
    folders = [entry for entry in entries if entry.is_dir() and not entry.name.startswith(".")]
    return [summary(folder) for folder in folders]


def summary(path: Path) -> Summary:
    """What one folder says about itself."""
    if not is_adapter_name(path.name):
        return Summary(name=path.name, problem="a name has no space, @, :, + or backslash.")
    try:
        folder = read_adapter_folder(path)
    except (AdapterFolderError, OSError) as error:
        return Summary(name=path.name, problem=str(error))
    config = folder.config
    recorded = _recorded(folder)
    files = [file for file in (folder.published, *folder.checkpoints.values()) if file]
    losses = {entry.step: entry for entry in recorded.history}
    return Summary(
        name=folder.name,
        format=f"{'peft' if isinstance(config, PeftConfig) else 'mlx'}-"
        f"{'dora' if config.uses_dora else 'lora'}",
        rank=config.rank_of(""),
        scale=config.scale_of(""),
        base=config.recorded_base,
        checkpoints=tuple(losses.get(step, Checkpoint(step=step)) for step in folder.checkpoints),
        best_step=config.best_step if isinstance(config, MlxConfig) else None,
        base_valid_loss=recorded.base_valid_loss,
        bytes=sum(file.stat().st_size for file in files),
        modified=max(file.stat().st_mtime for file in files),
    )


def details(path: Path) -> Details:
    """All that is known of one adapter; reads its weights.

    Raises:
        ConversionError: it is broken.
    """
    short = summary(path)
    if short.problem:
        raise ConversionError(f"{path}: {short.problem}")
    folder = read_adapter_folder(path)
    weights = folder.published or folder.checkpoints[cast(int, folder.last_step)]
    modules = read_factors(weights, folder.config)
    return Details(
        summary=short,
        digest=adapter_digest(path, file_digest(weights)),
        prompt=_json(path / "prompt.json"),
        run=_json(path / RUN_FILE),
        modules=modules,
        warnings=tuple(_warnings(folder, modules)),
    )


def _recorded(folder: AdapterFolder) -> _History:
    try:
        return msgspec.json.decode((folder.path / CONFIG_FILE).read_bytes(), type=_History)
    except (OSError, ValueError):
        return _History()  # written by somebody else, who means something else by these keys


def _warnings(folder: AdapterFolder, modules: dict[str, Factors]) -> Iterator[str]:
    if not any(factors.delta_norm for factors in modules.values()):
        yield "its update is zero: it writes what the base writes"
    if folder.prompt_format is None:
        yield "it has no prompt.json, so nobody knows which prompt it was trained with"
    if folder.unread_prompt_keys:
        yield f"prompt.json has keys nobody reads: {', '.join(folder.unread_prompt_keys)}"
    if folder.published is None:
        yield "it has checkpoints only; its plain name is not served"


def _json(file: Path) -> dict[str, Any] | None:
    try:
        content: Any = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return cast(dict[str, Any], content) if isinstance(content, dict) else None
