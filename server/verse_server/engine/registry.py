"""Which adapters there are, found by looking at the folder when somebody asks.

Every question compares the files' sizes and times with those seen last, so a new, changed or
removed folder or checkpoint counts from the next request on; no thread watches, nothing restarts.
A version is its content: what a request was promised is a digest, and a digest never changes.
"""

import difflib
import logging
import os
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import msgspec

from verse.adapter_config import MlxConfig
from verse.adapter_files import AdapterFileError, ModuleShape, plan_adapter
from verse.adapter_folder import (
    AdapterFolder,
    AdapterFolderError,
    adapter_digest,
    file_digest,
    read_adapter_folder,
    signature,
)
from verse.model_spelling import BASE, AdapterPart, is_adapter_name
from verse_server.engine.adapter_version import AdapterVersion, base_doubt, model_info
from verse_server.engine.errors import (
    AdapterIncompatibleError,
    InvalidRequestError,
    ModelNotFoundError,
)
from verse_server.engine.types import AdapterInfo, ModelInfo

_SETTLE_SECONDS = 2.0
"""How long a folder may be unreadable because somebody is still writing it."""
_MAX_VERSIONS = 4096
"""Versions remembered by digest; far more than can be running or waiting."""

_HIDDEN = "It was unloaded; POST /v1/load_lora_adapter brings it back."

_log = logging.getLogger(__name__)


class _Known(msgspec.Struct):
    """What was seen of one folder: the adapter or the reason it cannot be served."""

    signature: object
    folder: AdapterFolder | None
    reason: str = ""
    versions: dict[int | None, AdapterVersion] = {}
    """By step, as far as they were asked for; None is the published one."""
    previous: dict[int | None, AdapterVersion] = {}
    """Served until the new files are whole."""


class AdapterRegistry:
    """The adapters folder. Any thread may ask."""

    def __init__(self, root: Path, base_id: str, base_modules: Mapping[str, ModuleShape]) -> None:
        self._root = root
        self._base_id = base_id
        self._base_modules = base_modules
        self._known: dict[str, _Known] = {}
        self._by_digest: dict[str, AdapterVersion] = {}
        self._delta_norms: dict[str, float] = {}
        self._failures: dict[str, str] = {}
        self._hidden: set[str] = set()
        self._lock = threading.RLock()
        # For what the engine thread asks: hashing a large file under the other lock takes seconds.
        self._memory_lock = threading.Lock()

    def version(self, part: AdapterPart) -> AdapterVersion:
        """The version that a part of a spelling means now.

        Raises:
            ModelNotFoundError: there is no such adapter or checkpoint.
            AdapterIncompatibleError: it cannot be served on this base.
        """
        with self._lock:
            if part.name in self._hidden:
                raise ModelNotFoundError(part.spelling, reason=_HIDDEN)
            known = self._find(part.name)
            if known is None:
                raise ModelNotFoundError(part.spelling, self._nearest(part.name))
            if known.folder is None:
                raise AdapterIncompatibleError(part.name, known.reason)
            return self._checked_version(known, self._step(known.folder, part), part)

    def hide(self, name: str) -> None:
        """Serve this adapter to nobody until `show`.

        Raises:
            ModelNotFoundError: there is no such folder, or it is hidden already.
        """
        with self._lock:
            if name in self._hidden:
                raise ModelNotFoundError(name, reason=_HIDDEN)
            if self._find(name) is None:
                raise ModelNotFoundError(name, self._nearest(name))
            self._hidden.add(name)

    def show(self, name: str) -> bool:
        """Take `hide` back; whether it was hidden."""
        with self._lock:
            was_hidden = name in self._hidden
            self._hidden.discard(name)
            return was_hidden

    def check_path(self, name: str, path: str) -> None:
        """Make sure that a path, absolute or below the adapters folder, is that adapter's folder.

        Raises:
            InvalidRequestError: it is another place.
        """
        if "\0" in path or _real(self._root / path) != _real(self._root) / name:
            raise InvalidRequestError(
                f"The path is not that of {name!r} in the adapters folder; adapters are served "
                "from there, each under its folder's name.",
                param="lora_path",
            )

    def folders(self) -> list[AdapterInfo]:
        """Every adapter folder, also those that are hidden or cannot be served, by name."""
        with self._lock:
            self._scan()
            return [self._folder_info(name) for name in sorted(self._known)]

    def _folder_info(self, name: str) -> AdapterInfo:
        if name in self._hidden:
            return AdapterInfo(id=name, state="unloaded")
        try:
            info = self.model(AdapterPart(name, self._first_step(name)))
        except (AdapterIncompatibleError, ModelNotFoundError) as error:
            return AdapterInfo(id=name, state="refused", error=str(error))
        return AdapterInfo(id=name, state="on_disk", digest=info.digest, report=info.report)

    def by_digest(self, digest: str) -> AdapterVersion:
        """A version handed out before. Never waits for a file to be read."""
        with self._memory_lock:
            return self._by_digest[digest]

    def record_load(self, digest: str, delta_norm: float) -> None:
        """Keep what loading found out, for the report. Never waits for a file to be read."""
        with self._memory_lock:
            self._delta_norms[digest] = delta_norm

    def record_failure(self, digest: str, reason: str) -> None:
        """Remember a version whose loading failed, so that it is refused from now on."""
        with self._memory_lock:
            self._failures[digest] = reason

    def models(self) -> list[ModelInfo]:
        """Every adapter that can be served, by name."""
        with self._lock:
            self._scan()
            shown = sorted(self._known.keys() - self._hidden)
            return [info for name in shown for info in self._served(name)]

    def warnings(self) -> list[str]:
        """One line for each folder that cannot be served, or is served with a doubt."""
        with self._lock:
            self._scan()
            lines = self._overlooked()
            for name in sorted(self._known):
                try:
                    version = self.version(AdapterPart(name, self._first_step(name)))
                    if doubt := base_doubt(version, self._base_id):
                        lines.append(f"The adapter {name!r} was {doubt}.")
                except (AdapterIncompatibleError, ModelNotFoundError) as error:
                    lines.append(str(error))
            return lines

    def model(self, part: AdapterPart) -> ModelInfo:
        """One adapter or checkpoint; raises as `version` does."""
        with self._lock:
            version = self.version(part)
            folder = self._known[part.name].folder
            assert folder is not None
            return model_info(
                version,
                self._base_id,
                folder if part.checkpoint is None else None,
                self._delta_norms.get(version.digest),
            )

    def _served(self, name: str) -> list[ModelInfo]:
        """The adapter; while it has no published weights, each of its checkpoints."""
        known = self._known.get(name)  # it may have gone since it was listed
        if known is None or known.folder is None:
            return []
        folder = known.folder
        steps = [None] if folder.published else list(folder.checkpoints)
        infos: list[ModelInfo] = []
        for step in steps:
            with suppress(AdapterIncompatibleError, ModelNotFoundError):
                infos.append(self.model(AdapterPart(name, step)))
        return infos

    def _find(self, name: str) -> _Known | None:
        """What the folder of this name holds now. Only a name that the listing has is opened."""
        if name in self._known and (known := self._look(name)):
            return known
        self._scan()
        return self._known.get(name)

    def _scan(self) -> None:
        names = {entry.name for entry in self._entries() if is_adapter_name(entry.name)}
        for name in self._known.keys() - names:
            del self._known[name]
        for name in names:
            self._look(name)

    def _entries(self) -> list[Path]:
        try:
            return sorted(self._root.iterdir())
        except OSError as error:
            _log.warning("The adapters folder cannot be listed: %s", error)
            return []

    def _overlooked(self) -> list[str]:
        """One line for each folder that no spelling or no safe path leads to."""
        lines: list[str] = []
        for entry in self._entries():
            if entry.name in self._known or entry.name.startswith(".") or not entry.is_dir():
                continue
            reason = (
                "it is a link or holds one that leads out of the adapters folder; copy the files"
            )
            if not is_adapter_name(entry.name):
                reason = "a name has no space, @, :, + or backslash; rename the folder"
            lines.append(f"The folder {entry.name!r} is not served: {reason}.")
        return lines

    def _look(self, name: str) -> _Known | None:
        """What a listed folder holds now; None if it is no folder of ours any more."""
        path = self._root / name
        known = self._known.get(name)
        try:
            if not self._is_inside(path) or not path.is_dir():
                raise FileNotFoundError
            seen = signature(path)
            if known is not None and known.signature == seen:
                return known
            fresh = self._read(path, seen)
        except FileNotFoundError:
            self._known.pop(name, None)
            return None
        except OSError as error:
            fresh = _Known(None, None, f"the folder cannot be read ({error.strerror}).")
        if known is not None and fresh.folder is None and known.folder and _settling(path):
            return known
        if known is not None:
            fresh.previous = {**known.previous, **known.versions}
        self._known[name] = fresh
        return fresh

    def _is_inside(self, path: Path) -> bool:
        """Whether the folder is no link."""
        return _real(path) == _real(self._root) / path.name

    def _read(self, path: Path, seen: object) -> _Known:
        if any(file.is_symlink() and not self._stays_in(file) for file in path.iterdir()):
            raise FileNotFoundError
        if path.name in (BASE, self._base_id):
            return _Known(seen, None, "its name means the base model; rename the folder.")
        try:
            return _Known(seen, read_adapter_folder(path))
        except AdapterFolderError as error:
            return _Known(seen, None, str(error))

    def _stays_in(self, link: Path) -> bool:
        return _real(link).is_relative_to(_real(self._root))

    def _first_step(self, name: str) -> int | None:
        """None for the published weights; a folder that has none yet is judged by its newest."""
        known = self._known.get(name)
        if known is None or known.folder is None or known.folder.published:
            return None
        return known.folder.last_step

    def _step(self, folder: AdapterFolder, part: AdapterPart) -> int | None:
        """The step of a checkpoint; None for the published weights."""
        if part.checkpoint is None:
            return None
        if part.checkpoint == "last":
            return folder.last_step
        if part.checkpoint == "best":
            return self._best_step(folder, part)
        if part.checkpoint not in folder.checkpoints:
            raise ModelNotFoundError(part.spelling, _checkpoint_ids(folder))
        return part.checkpoint

    def _best_step(self, folder: AdapterFolder, part: AdapterPart) -> int | None:
        step = folder.config.best_step if isinstance(folder.config, MlxConfig) else None
        if step is None:
            raise ModelNotFoundError(part.spelling, _checkpoint_ids(folder))
        # The published weights are the best ones; the numbered file may have been cleaned away.
        return step if step in folder.checkpoints else None

    def _checked_version(
        self, known: _Known, step: int | None, part: AdapterPart
    ) -> AdapterVersion:
        version = known.versions.get(step)
        if version is not None:
            self._remember(version)
            return self._sound(version)
        assert known.folder is not None
        try:
            version = self._make_version(known.folder, step)
            if signature(known.folder.path) != known.signature:
                raise AdapterFileError("its files changed while they were read; send it again.")
        except (AdapterFileError, OSError) as error:
            if step in known.previous and _settling(known.folder.path):
                return known.previous[step]
            raise AdapterIncompatibleError(part.spelling, str(error)) from error
        known.versions = {**known.versions, step: version}
        self._remember(version)
        return self._sound(version)

    def _sound(self, version: AdapterVersion) -> AdapterVersion:
        if reason := self._failures.get(version.digest):
            raise AdapterIncompatibleError(version.name, reason)
        return version

    def _make_version(self, folder: AdapterFolder, step: int | None) -> AdapterVersion:
        weights = folder.weights(step)
        if weights is None:
            raise AdapterFileError(
                f"it has no published weights yet; {folder.name}@last is its newest checkpoint."
            )
        stat = weights.stat()
        return AdapterVersion(
            name=folder.name if step is None else f"{folder.name}@{step}",
            adapter=folder.name,
            folder=folder.path,
            weights=weights,
            config=folder.config,
            prompt_format=folder.prompt_format,
            unread_prompt_keys=folder.unread_prompt_keys,
            plan=plan_adapter(weights, folder.config, self._base_modules),
            digest=adapter_digest(folder.path, file_digest(weights)),
            created=int(stat.st_mtime),
            bytes=stat.st_size,
        )

    def _remember(self, version: AdapterVersion) -> None:
        """The last one handed out counts: a copy in another folder may be gone by now."""
        with self._memory_lock:
            self._by_digest.pop(version.digest, None)
            self._by_digest[version.digest] = version
            while len(self._by_digest) > _MAX_VERSIONS:
                del self._by_digest[next(iter(self._by_digest))]

    def _nearest(self, name: str) -> list[str]:
        names = {n.lower(): n for n in (*self._known, self._base_id)}
        return [names[n] for n in difflib.get_close_matches(name.lower(), names, cutoff=0.5)]


def _settling(path: Path) -> bool:
    """Whether a file in the folder was written, or came or went, just now."""
    try:
        newest = max([path.stat().st_mtime_ns, *(time_ns for *_, time_ns in signature(path))])
    except OSError:
        return False
    return abs(time.time_ns() - newest) < _SETTLE_SECONDS * 1e9


def _real(path: Path) -> Path:
    """All links followed. Unlike `Path.resolve`, links that go in a circle raise nothing."""
    return Path(os.path.realpath(path))


def _checkpoint_ids(folder: AdapterFolder) -> list[str]:
    return [f"{folder.name}@{step}" for step in folder.checkpoints]
