"""What lies in the adapters folder, seen by looking whenever somebody asks. No tensor is read.

A look compares the files' sizes and times with those seen last and reads anew what changed. Only
real folders right below are opened, and nothing that a link leads out to.
"""

import logging
import os
import stat
import time
from contextlib import suppress
from pathlib import Path

import msgspec

from verse.adapter_config import AdapterConfig
from verse.adapter_files import AdapterPlan
from verse.adapter_folder import AdapterFolder, AdapterFolderError, read_adapter_folder, signature
from verse.model_spelling import BASE, is_adapter_name
from verse.prompt import PromptFormat
from verse_server.engine.types import CheckpointInfo, LoadReport, ModelInfo


class AdapterVersion(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One file of adapter weights that fits the base."""

    name: str
    """The spelling without strength: `xuzhimo` or `xuzhimo@200`."""
    adapter: str
    """The folder's name."""
    folder: Path
    weights: Path
    config: AdapterConfig
    prompt_format: PromptFormat | None
    unread_prompt_keys: tuple[str, ...]
    plan: AdapterPlan
    digest: str
    created: int
    bytes: int
    memory_bytes: int = 0
    """What it takes in a slot."""


def model_info(
    version: AdapterVersion,
    base_id: str,
    folder: AdapterFolder | None,
    delta_norm: float | None,
) -> ModelInfo:
    """Describe a version.

    Args:
        version: What to describe.
        base_id: The base it is served on.
        folder: Where its checkpoints are listed from; None for a checkpoint.
        delta_norm: What loading it found; None if it was never loaded.
    """
    recorded = version.prompt_format
    return ModelInfo(
        id=version.name,
        created=version.created,
        parent=version.adapter if folder is None else base_id,
        root=base_id,
        checkpoints=() if folder is None else _checkpoints(folder),
        digest=version.digest,
        prompt_format=recorded.format if recorded else None,
        system=recorded.system if recorded else None,
        report=_report(version, base_id, delta_norm),
    )


def base_doubt(version: AdapterVersion, base_id: str) -> str | None:
    """What to say of an adapter that fits this base but names another; None if it names this one.

    It may be a copy, a quantization or the instruct version of the same model, so it is served.
    """
    recorded = version.plan.recorded_base
    if not recorded or _last_name(recorded) == _last_name(base_id):
        return None
    return f"trained on {recorded}, served on {base_id}"


def _report(version: AdapterVersion, base_id: str, delta_norm: float | None) -> LoadReport:
    plan = version.plan
    return LoadReport(
        format=plan.format,
        matched=len(plan.modules),
        rank=plan.rank,
        scale=plan.scale,
        delta_norm=delta_norm,
        bytes=version.bytes,
        digest=version.digest,
        recorded_base=plan.recorded_base,
        warnings=_warnings(version, base_id, delta_norm),
    )


def _warnings(version: AdapterVersion, base_id: str, delta_norm: float | None) -> tuple[str, ...]:
    warnings = list(version.plan.notes)
    if doubt := base_doubt(version, base_id):
        warnings.append(doubt)
    if version.prompt_format is None:
        warnings.append("prompt.json is missing; the chat format is assumed")
    if version.unread_prompt_keys:
        warnings.append(
            f"prompt.json has keys nobody reads: {', '.join(version.unread_prompt_keys)}"
        )
    if delta_norm == 0:
        warnings.append("the update is zero: it changes nothing")
    return tuple(warnings)


def _checkpoints(folder: AdapterFolder) -> tuple[CheckpointInfo, ...]:
    found: list[CheckpointInfo] = []
    for step, file in folder.checkpoints.items():
        with suppress(FileNotFoundError):  # cleaned away just now
            size = file.stat().st_size
            found.append(CheckpointInfo(id=f"{folder.name}@{step}", step=step, bytes=size))
    return tuple(found)


def _last_name(model: str) -> str:
    """`Qwen/Qwen2.5-7B` and `models/Qwen2.5-7B` are the same model in different places."""
    return model.rstrip("/").rsplit("/", 1)[-1].lower()


_WRITING_SECONDS = 2.0
"""How long a folder may be unreadable because somebody is still writing it."""

_log = logging.getLogger(__name__)


class KnownFolder(msgspec.Struct, gc=False):
    """What was seen of one folder: the adapter or the reason it cannot be served."""

    signature: object
    folder: AdapterFolder | None
    reason: str = ""
    versions: dict[int | None, AdapterVersion] = {}
    """By step, as far as they were asked for; None is the published one."""
    previous: dict[int | None, AdapterVersion] = {}
    """Served until the new files are whole."""


class AdapterListing:
    """The folders, by name. Not for several threads at once."""

    def __init__(self, root: Path, base_id: str) -> None:
        self._root = root
        self._base_id = base_id
        self.known: dict[str, KnownFolder] = {}
        """As the last look found them."""
        self.names: frozenset[str] = frozenset()
        """Of all folders when they were last listed."""

    def leads_to(self, name: str, path: str) -> bool:
        """Whether a path, absolute or below the adapters folder, is the folder of this name."""
        return "\0" not in path and _real(self._root / path) == _real(self._root) / name

    def find(self, name: str) -> KnownFolder | None:
        """What the folder of this name holds now. Only a name that the listing has is opened."""
        if name in self.known and (known := self.look(name)):
            return known
        return self.look(name) if name in self.list_names() else None

    def list_names(self) -> frozenset[str]:
        """Of all folders there are now; none is opened."""
        try:
            with os.scandir(self._root) as entries:
                found = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
        except OSError as error:
            _log.warning("The adapters folder cannot be listed: %s", error)
            found = []
        self.names = frozenset(filter(is_adapter_name, found))
        for name in self.known.keys() - self.names:
            del self.known[name]
        return self.names

    def overlooked(self) -> list[str]:
        """One line for each folder that no spelling or no safe path leads to."""
        lines: list[str] = []
        for entry in self._entries():
            if entry.name in self.known or entry.name.startswith(".") or not entry.is_dir():
                continue
            reason = (
                "it is a link or holds one that leads out of the adapters folder; copy the files"
            )
            if not is_adapter_name(entry.name):
                reason = "a name has no space, @, :, + or backslash; rename the folder"
            lines.append(f"The folder {entry.name!r} is not served: {reason}.")
        return lines

    def _entries(self) -> list[Path]:
        try:
            return sorted(self._root.iterdir())
        except OSError as error:
            _log.warning("The adapters folder cannot be listed: %s", error)
            return []

    def look(self, name: str) -> KnownFolder | None:
        """What a listed folder holds now; None if it is no folder of ours any more."""
        path = self._root / name
        known = self.known.get(name)
        try:
            if not stat.S_ISDIR(path.lstat().st_mode):  # a link, perhaps
                raise FileNotFoundError
            seen = signature(path)
            if known is not None and known.signature == seen:
                return known
            fresh = self._read(path, seen)
        except FileNotFoundError:
            self.known.pop(name, None)
            return None
        except OSError as error:
            fresh = KnownFolder(None, None, f"the folder cannot be read ({error.strerror}).")
        if known is not None and fresh.folder is None and known.folder and was_just_written(path):
            return known
        if known is not None:
            fresh.previous = {**known.previous, **known.versions}
        self.known[name] = fresh
        return fresh

    def _read(self, path: Path, seen: object) -> KnownFolder:
        if any(file.is_symlink() and not self._stays_in(file) for file in path.iterdir()):
            raise FileNotFoundError
        if path.name in (BASE, self._base_id):
            return KnownFolder(seen, None, "its name means the base model; rename the folder.")
        try:
            return KnownFolder(seen, read_adapter_folder(path))
        except AdapterFolderError as error:
            return KnownFolder(seen, None, str(error))

    def _stays_in(self, link: Path) -> bool:
        return _real(link).is_relative_to(_real(self._root))


def was_just_written(path: Path) -> bool:
    """Whether a file in the folder was written, or came or went, just now."""
    try:
        newest = max([path.stat().st_mtime_ns, *(time_ns for *_, time_ns in signature(path))])
    except OSError:
        return False
    return abs(time.time_ns() - newest) < _WRITING_SECONDS * 1e9


def _real(path: Path) -> Path:
    """All links followed. Unlike `Path.resolve`, links that go in a circle raise nothing."""
    return Path(os.path.realpath(path))
