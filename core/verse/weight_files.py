"""Whether a model's folder has all its files of weights, before mlx-lm counts parameters.

What is wrong with a download is told by the files alone: one that the index names is not there, one
of a numbered set is not there (`model-00001-of-00003.safetensors`), or one is cut off, empty or
still the pointer that Git leaves where Git LFS is not installed.
"""

import json
import re
from pathlib import Path
from typing import cast

from verse.safetensors_header import whole_bytes

INDEX = "model.safetensors.index.json"
_NUMBERED = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.safetensors")
_POINTER = b"version https://git-lfs"
_SHORTEST = 8
"""Bytes: a file of weights begins with the length of its header."""


class WeightFilesError(ValueError):
    """A file is missing or holds no weights; what the message says follows the model's name."""


def check_weight_files(folder: Path) -> None:
    """See that all files of weights are there and hold some.

    Raises:
        WeightFilesError: they do not.
        OSError: the folder or a file of it cannot be read.
        ValueError: the index is none.
    """
    named = _named_in(folder / INDEX)
    expected = named or _numbered(folder)
    missing = sorted(name for name in expected if not (folder / name).is_file())
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        why = ", named in its index" if named else ""
        raise WeightFilesError(f"lacks {missing[0]}{more}{why}; copy or download what is missing.")
    for file in sorted(folder.glob("model*.safetensors")):
        with file.open("rb") as opened:
            begin = opened.read(len(_POINTER))
        if begin == _POINTER:
            raise WeightFilesError(
                f"has only Git's pointer to {file.name}; run `git lfs pull` there, or download it."
            )
        if len(begin) < _SHORTEST:
            raise WeightFilesError(f"has an empty {file.name}; copy or download it again.")
        _check_whole(file)


def _check_whole(file: Path) -> None:
    try:
        num_bytes = whole_bytes(file)
    except (ValueError, RecursionError) as error:
        raise WeightFilesError(
            f"has no weights in {file.name}, or only their beginning; copy or download it again."
        ) from error
    if (size := file.stat().st_size) < num_bytes:
        raise WeightFilesError(
            f"has a {file.name} that was cut off (bytes: {size:,} of {num_bytes:,}); copy or "
            "download it again."
        )


def _named_in(index: Path) -> set[str]:
    if not index.is_file():
        return set()
    try:
        listed = cast(dict[str, dict[str, str]], json.loads(index.read_text("utf-8")))
        return {str(name) for name in listed.get("weight_map", {}).values()}
    except (AttributeError, TypeError) as error:
        raise ValueError(str(error)) from error


def _numbered(folder: Path) -> set[str]:
    """All files of the sets that the folder has some of."""
    return {
        f"{found['stem']}-{number:05}-of-{found['count']}.safetensors"
        for file in folder.glob("model*.safetensors")
        if (found := _NUMBERED.fullmatch(file.name))
        for number in range(1, int(found["count"]) + 1)
    }
