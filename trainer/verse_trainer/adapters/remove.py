"""Adapters out of the way: moved to a trash folder, where they can be fetched back from."""

from datetime import datetime
from pathlib import Path

from verse.model_spelling import AdapterPart
from verse_trainer.adapters.names import find_folder
from verse_trainer.errors import ConversionError

TRASH = ".trash"


def remove(adapters: Path, part: AdapterPart, now: datetime) -> Path:
    """Move an adapter, or one checkpoint of it, to `.trash`.

    Returns:
        Where it is now.

    Raises:
        ConversionError: there is none such.
    """
    source = find_folder(adapters, part.name)
    if part.checkpoint is not None:
        source = _checkpoint(source, part)
    trash = adapters / TRASH
    trash.mkdir(exist_ok=True)
    stem = f"{part.spelling}-{now:%Y%m%d-%H%M%S}"
    target = trash / (stem + source.suffix if source.is_file() else stem)
    number = 1
    while target.exists():
        number += 1
        target = trash / f"{stem}-{number}{source.suffix if source.is_file() else ''}"
    source.rename(target)
    return target


def _checkpoint(folder: Path, part: AdapterPart) -> Path:
    if not isinstance(part.checkpoint, int):
        raise ConversionError("Name the step: NAME@200.")
    found = [
        file
        for file in folder.glob("*_adapters.safetensors")
        if file.name.removesuffix("_adapters.safetensors").isdigit()
        and int(file.name.removesuffix("_adapters.safetensors")) == part.checkpoint
    ]
    if not found:
        raise ConversionError(f"{part.name} has no checkpoint {part.checkpoint}.")
    return found[0]
