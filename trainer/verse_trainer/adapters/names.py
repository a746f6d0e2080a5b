"""Which folder, and which weights in it, a spelling means. The one place that checks names."""

from pathlib import Path

import msgspec

from verse.adapter_config import MlxConfig
from verse.adapter_folder import AdapterFolder, AdapterFolderError, read_adapter_folder
from verse.model_spelling import AdapterPart, ModelSpellingError, is_adapter_name, parse_model
from verse_trainer.errors import ConversionError


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """One adapter folder and the weights chosen in it."""

    folder: AdapterFolder
    weights: Path
    step: int | None
    """None for the published weights."""
    strength: float = 1.0


def checked_name(name: str) -> str:
    """A name that a folder may have.

    Raises:
        ConversionError: it holds what no name may.
    """
    if not is_adapter_name(name):
        raise ConversionError(
            f"{name!r} is no name of an adapter: no space, slash, @, : or +, and no dot in front."
        )
    return name


def find_folder(adapters: Path, name: str) -> Path:
    """The folder of this name, inside the adapters folder.

    Raises:
        ConversionError: there is none.
    """
    folder = adapters / checked_name(name)
    if not folder.is_dir() or folder.resolve().parent != adapters.resolve():
        raise ConversionError(f"There is no adapter {name!r} in {adapters}; `verse adapters list`.")
    return folder


def choose(adapters: Path, spelling: str) -> Choice:
    """What `NAME`, `NAME@STEP`, `NAME@best` or `NAME:STRENGTH` means.

    Raises:
        ConversionError: it means nothing here.
    """
    part = one_part(spelling)
    try:
        folder = read_adapter_folder(find_folder(adapters, part.name))
    except AdapterFolderError as error:
        raise ConversionError(f"{adapters / part.name}: {error}") from error
    step = _step(folder, part)
    weights = folder.weights(step)
    if weights is None:
        steps = ", ".join(map(str, folder.checkpoints)) or "none"
        raise ConversionError(f"{part.spelling} has no weights; its checkpoints are: {steps}.")
    return Choice(folder=folder, weights=weights, step=step, strength=part.strength)


def one_part(spelling: str) -> AdapterPart:
    """Read the spelling of one adapter.

    Raises:
        ConversionError: it is none, or a blend.
    """
    try:
        parts = parse_model(spelling)
    except ModelSpellingError as error:
        raise ConversionError(str(error)) from None
    match parts:
        case (part,):
            return part
        case _:
            raise ConversionError("One adapter at a time; a blend exists only while it is served.")


def _step(folder: AdapterFolder, part: AdapterPart) -> int | None:
    if part.checkpoint == "last":
        return folder.last_step
    if part.checkpoint == "best":
        best = folder.config.best_step if isinstance(folder.config, MlxConfig) else None
        if best is None:
            raise ConversionError(f"{part.name} does not record which checkpoint is best.")
        return best if best in folder.checkpoints else None
    return part.checkpoint
