"""Adapters that come in from PEFT, and those that leave."""

import tempfile
from pathlib import Path

from verse.adapter_config import PeftConfig
from verse.adapter_folder import AdapterFolder, AdapterFolderError, read_adapter_folder
from verse.prompt import PromptFormat
from verse_trainer.adapters.convert import Dialect, convert
from verse_trainer.adapters.names import Choice, checked_name
from verse_trainer.errors import ConversionError


def import_adapter(
    source: Path, adapters: Path, name: str | None, prompt_format: PromptFormat | None
) -> tuple[Path, float, PromptFormat | None]:
    """Make an adapter folder of mlx-lm's from one of PEFT's.

    Args:
        source: PEFT's folder.
        adapters: Where the new one goes.
        name: Of the new one; the source's if None.
        prompt_format: To record; the source's own `prompt.json` if None.

    Returns:
        The new folder, the largest difference the check found, and what prompt format is recorded.

    Raises:
        ConversionError: it cannot be imported.
    """
    folder = _read(source)
    if not isinstance(folder.config, PeftConfig):
        raise ConversionError(f"{source} is mlx-lm's already; copy it into {adapters}.")
    assert folder.published is not None
    output = adapters / checked_name(name or source.resolve().name)
    recorded = prompt_format or folder.prompt_format
    difference = convert(folder.published, folder.config, recorded, output, "mlx")
    return output, difference, recorded


def export_adapter(choice: Choice, output: Path, to: Dialect) -> float:
    """Write the chosen weights as a folder of its own.

    Returns:
        The largest difference the check found.

    Raises:
        ConversionError: it cannot be exported.
    """
    if choice.strength != 1:
        raise ConversionError("An adapter is exported whole; leave the strength out.")
    folder = choice.folder
    return convert(choice.weights, folder.config, folder.prompt_format, output, to)


class AsMlxFolder:
    """The chosen weights as a folder that mlx-lm loads, for as long as the block runs."""

    def __init__(self, choice: Choice) -> None:
        self._choice = choice
        self._temporary = tempfile.TemporaryDirectory()

    def __enter__(self) -> Path:
        folder = Path(self._temporary.name) / "adapter"
        convert(self._choice.weights, self._choice.folder.config, None, folder, "mlx")
        return folder

    def __exit__(self, *_: object) -> None:
        self._temporary.cleanup()


def _read(source: Path) -> AdapterFolder:
    try:
        return read_adapter_folder(source)
    except AdapterFolderError as error:
        raise ConversionError(f"{source}: {error}") from error
