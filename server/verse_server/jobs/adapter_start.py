"""The adapter that a training goes on from: its weights, and what `verse train` has to be told.

A job copies the weights when it is made, so whatever becomes of the adapter meanwhile, it starts
from what was asked for. Shape and kind of the update are the adapter's, not the client's.
"""

import shutil
from pathlib import Path
from typing import Any

import msgspec

from verse.adapter_config import MlxConfig
from verse.adapter_folder import (
    CONFIG_FILE,
    MLX_WEIGHTS_FILE,
    PROMPT_FILE,
    AdapterFolder,
    AdapterFolderError,
    read_adapter_folder,
    read_small,
)
from verse.model_spelling import ModelSpellingError, parse_model


class AdapterStartError(Exception):
    """Training cannot go on from this adapter; the text says why."""


class AdapterStart(msgspec.Struct, frozen=True, kw_only=True):
    """One file of weights to begin with."""

    model: str
    """As a request would spell it; a training that is made of it shows this."""
    adapter: str
    weights: Path
    keys: dict[str, Any]
    """Of `verse train`, all of which the adapter itself decides."""

    def copy(self, folder: Path) -> None:
        """Put a copy of what the trainer reads into a new folder.

        Raises:
            OSError: the weights have gone, or the disk is full.
        """
        folder.mkdir()
        shutil.copyfile(self.weights, folder / MLX_WEIGHTS_FILE)
        prompt = self.weights.with_name(PROMPT_FILE)
        if prompt.is_file():
            shutil.copyfile(prompt, folder / PROMPT_FILE)


class _Lora(msgspec.Struct, frozen=True):
    dropout: float = 0.0
    keys: list[str] | None = None


class _TrainedAs(msgspec.Struct, frozen=True):
    """What the arithmetic of serving does not need, and training does."""

    lora_parameters: _Lora
    num_layers: int = -1


def find_start(adapters: Path, spelling: str) -> AdapterStart | None:
    """The adapter or checkpoint of this spelling; None if there is no such folder. Reads the disk.

    Raises:
        AdapterStartError: it is there, or would be, but cannot be trained on.
    """
    try:
        part, *others = parse_model(spelling)
    except ModelSpellingError:
        return None
    path = adapters / part.name
    if path.is_symlink() or not path.is_dir():
        return None
    if others or part.strength != 1:
        raise AdapterStartError(
            f"A training goes on from one adapter as it is, not from {spelling!r}; name it without "
            "a strength and alone."
        )
    try:
        folder = read_adapter_folder(path)
        step = folder.step_of(part.checkpoint)
        return _start(folder, folder.weights(step), step)
    except AdapterFolderError as error:
        raise AdapterStartError(f"{path.name!r} cannot be trained on: {error}") from error
    except LookupError as error:
        raise AdapterStartError(f"{path.name!r} has no checkpoint like that.") from error
    except (OSError, ValueError) as error:
        raise AdapterStartError(f"{path.name!r} cannot be read just now.") from error


def _start(folder: AdapterFolder, weights: Path | None, step: int | None) -> AdapterStart:
    if not isinstance(folder.config, MlxConfig):
        raise AdapterFolderError("it is PEFT's; bring it over with `verse adapters import`.")
    if weights is None:
        raise AdapterFolderError(f"it has no published weights; name {folder.name}@last.")
    told = msgspec.json.decode(read_small(folder.path / CONFIG_FILE), type=_TrainedAs)
    lora = {
        "rank": folder.config.rank_of(""),
        "scale": folder.config.scale_of(""),
        **msgspec.structs.asdict(told.lora_parameters),
    }
    keys: dict[str, Any] = {
        "fine_tune_type": folder.config.fine_tune_type,
        "num_layers": told.num_layers,
        "lora_parameters": lora,
    }
    if folder.prompt_format is not None:
        keys["prompt_format"] = folder.prompt_format.format
    return AdapterStart(
        model=folder.name if step is None else f"{folder.name}@{step}",
        adapter=folder.name,
        weights=weights,
        keys=keys,
    )
