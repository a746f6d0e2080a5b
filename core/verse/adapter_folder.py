"""What an adapter folder is on disk.

    NAME/adapter_config.json              mlx-lm's or PEFT's
    NAME/adapters.safetensors             mlx-lm: the published weights
    NAME/0000200_adapters.safetensors     mlx-lm: the checkpoint of step 200
    NAME/adapter_model.safetensors        PEFT: the weights
    NAME/prompt.json                      the prompt format it was trained in

Nothing here reads a tensor, and no pickle is ever opened.
"""

import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Literal

import msgspec

from verse.adapter_config import AdapterConfig, MlxConfig, PeftConfig, decode_adapter_config
from verse.prompt import PromptFormat

CONFIG_FILE = "adapter_config.json"
PROMPT_FILE = "prompt.json"
MLX_WEIGHTS_FILE = "adapters.safetensors"
PEFT_WEIGHTS_FILE = "adapter_model.safetensors"

_WEIGHTS_SUFFIXES = (".safetensors", ".bin")
_MAX_JSON_BYTES = 1 << 20
_CHECKPOINT = re.compile(r"(\d+)_adapters\.safetensors")


class AdapterFolderError(Exception):
    """The folder is not an adapter that can be served; the text says why."""


class AdapterFolder(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """An adapter's files, read once; `signature` tells whether they are still the same."""

    name: str
    path: Path
    config: AdapterConfig
    prompt_format: PromptFormat | None
    """None where no `prompt.json` was written."""
    unread_prompt_keys: tuple[str, ...] = ()
    """Keys of `prompt.json` that mean nothing here; one may be misspelled."""
    published: Path | None
    """The weights served under the plain name; None while only checkpoints exist."""
    checkpoints: dict[int, Path]
    """By step, ascending."""

    @property
    def last_step(self) -> int | None:
        """Step of the newest numbered checkpoint."""
        return max(self.checkpoints, default=None)

    def step_of(self, checkpoint: "int | Literal['best', 'last'] | None") -> int | None:
        """The step that stands behind `@` in a spelling; None for the published weights.

        Raises:
            LookupError: there is no such checkpoint.
        """
        match checkpoint:
            case None:
                return None
            case "last":
                return self.last_step
            case "best":
                step = self.config.best_step if isinstance(self.config, MlxConfig) else None
                if step is None:
                    raise LookupError
                # The published weights are the best ones; the file may have been cleaned away.
                return step if step in self.checkpoints else None
            case _ if checkpoint in self.checkpoints:
                return checkpoint
            case _:
                raise LookupError

    def weights(self, step: int | None) -> Path | None:
        """The file of a checkpoint, or of the published weights for None."""
        return self.published if step is None else self.checkpoints.get(step)


def checkpoint_file(step: int) -> str:
    """mlx-lm's name for the checkpoint of a step."""
    return f"{step:07d}_adapters.safetensors"


def model_at(path: str) -> str:
    """How a request names what lies at a path: `NAME`, or `NAME@STEP` for one of its files.

    Args:
        path: A folder, a file of weights in it, or a name that stands for itself.
    """
    last = Path(path).name
    step = _CHECKPOINT.fullmatch(last)
    if step is None and last not in (MLX_WEIGHTS_FILE, PEFT_WEIGHTS_FILE):
        return last
    folder = Path(path).absolute().parent.name
    return f"{folder}@{int(step[1])}" if step else folder


def folder_at(path: str) -> Path | None:
    """The adapter's folder, absolute, that a path or a file of weights in it names; or None."""
    given = Path(path).absolute()
    folder = given if given.is_dir() else given.parent
    return folder if given.exists() and (folder / CONFIG_FILE).is_file() else None


def read_adapter_folder(path: Path) -> AdapterFolder:
    """Read what the folder says about itself.

    Raises:
        AdapterFolderError: the configuration is missing or unreadable, or of an unsupported kind.
    """
    config = _read_config(path)
    published = path / (PEFT_WEIGHTS_FILE if isinstance(config, PeftConfig) else MLX_WEIGHTS_FILE)
    checkpoints = checkpoints_in(path) if isinstance(config, MlxConfig) else {}
    if not published.is_file() and not checkpoints:
        raise AdapterFolderError(_no_weights(path, published.name))
    prompt_format, unread_keys = _read_prompt_format(path)
    return AdapterFolder(
        name=path.name,
        path=path,
        config=config,
        prompt_format=prompt_format,
        unread_prompt_keys=unread_keys,
        published=published if published.is_file() else None,
        checkpoints=checkpoints,
    )


def signature(path: Path) -> tuple[tuple[str, int, int, int], ...]:
    """What changes when a file that counts is written: name, inode, size and time of each.

    Configuration, prompt format and weights count; logs and notes beside them do not.

    Raises:
        OSError: the folder cannot be listed.
    """
    found: list[tuple[str, int, int, int]] = []
    with os.scandir(path) as entries:
        for entry in entries:
            name = entry.name
            if name in (CONFIG_FILE, PROMPT_FILE) or name.endswith(_WEIGHTS_SUFFIXES):
                with suppress(FileNotFoundError):  # just now moved away, or a link to nothing
                    stat = entry.stat()
                    found.append((name, stat.st_ino, stat.st_size, stat.st_mtime_ns))
    return tuple(sorted(found))


def read_small(file: Path) -> bytes:
    """Read a file of text; one that is no ordinary file, such as a pipe, would never end."""
    if file.exists() and not file.is_file():
        raise ValueError("it is no ordinary file")
    if file.stat().st_size > _MAX_JSON_BYTES:
        raise ValueError("it is too large to be what it should be")
    return file.read_bytes()


def _read_config(path: Path) -> AdapterConfig:
    try:
        config = decode_adapter_config(read_small(path / CONFIG_FILE))
    except FileNotFoundError:
        raise AdapterFolderError(f"{CONFIG_FILE} is missing.") from None
    except (OSError, ValueError) as error:
        raise AdapterFolderError(f"{CONFIG_FILE} cannot be read: {error}.") from error
    if reason := config.refusal():
        raise AdapterFolderError(reason)
    return config


def _read_prompt_format(path: Path) -> tuple[PromptFormat | None, tuple[str, ...]]:
    """What `prompt.json` says, and its keys that mean nothing here."""
    try:
        data = read_small(path / PROMPT_FILE)
        recorded = msgspec.json.decode(data, type=PromptFormat)
        keys = msgspec.json.decode(data, type=dict[str, msgspec.Raw])
    except FileNotFoundError:
        return None, ()
    except (OSError, ValueError) as error:
        raise AdapterFolderError(f"{PROMPT_FILE} cannot be read: {error}.") from error
    return recorded, tuple(sorted(keys.keys() - set(PromptFormat.__struct_fields__)))


def checkpoints_in(path: Path) -> dict[int, Path]:
    """The numbered checkpoints of a folder, by their step."""
    matches = ((_CHECKPOINT.fullmatch(file.name), file) for file in path.iterdir())
    return dict(
        sorted((int(match[1]), file) for match, file in matches if match and file.is_file())
    )


def _no_weights(path: Path, expected: str) -> str:
    if any(path.glob("adapter_model.bin")):
        return "its weights are a pickle, which is never opened; save them as safetensors."
    return f"{expected} is missing."
