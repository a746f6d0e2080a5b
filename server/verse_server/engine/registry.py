"""Which adapters there are, found by looking at the folder when somebody asks.

Every question compares the files' sizes and times with those seen last, so a new, changed or
removed folder or checkpoint counts from the next request on; no thread watches, nothing restarts.
A version is its content: what a request was promised is a digest, and a digest never changes.
"""

import difflib
import logging
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from verse.adapter_config import AdapterConfig, MlxConfig
from verse.adapter_folder import (
    AdapterFolder,
    AdapterFolderError,
    adapter_digest,
    file_digest,
    read_adapter_folder,
    signature,
)
from verse.model_spelling import AdapterPart, is_adapter_name
from verse.prompt import PromptFormat
from verse_server.engine.adapter_files import (
    AdapterFileError,
    AdapterPlan,
    ModuleShape,
    plan_adapter,
)
from verse_server.engine.errors import AdapterIncompatibleError, ModelNotFoundError
from verse_server.engine.types import CheckpointInfo, LoadReport, ModelInfo

_SETTLE_SECONDS = 2.0
"""How long a folder may be unreadable because somebody is still writing it."""
_MAX_VERSIONS = 4096
"""Versions remembered by digest; far more than can be running or waiting."""

_log = logging.getLogger(__name__)


class AdapterVersion(msgspec.Struct, frozen=True, kw_only=True):
    """One file of adapter weights that fits the base."""

    name: str
    """The spelling without strength: `xuzhimo` or `xuzhimo@200`."""
    folder: Path
    weights: Path
    config: AdapterConfig
    prompt_format: PromptFormat | None
    plan: AdapterPlan
    digest: str
    created: int
    bytes: int


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

    def __init__(
        self, root: Path, base_id: str, base_modules: Mapping[str, ModuleShape]
    ) -> None:
        self._root = root
        self._base_id = base_id
        self._base_modules = base_modules
        self._known: dict[str, _Known] = {}
        self._by_digest: dict[str, AdapterVersion] = {}
        self._delta_norms: dict[str, float] = {}
        self._lock = threading.RLock()

    def version(self, part: AdapterPart) -> AdapterVersion:
        """The version that a part of a spelling means now.

        Raises:
            ModelNotFoundError: there is no such adapter or checkpoint.
            AdapterIncompatibleError: it cannot be served on this base.
        """
        with self._lock:
            known = self._look(part.name)
            if known is None:
                self._scan()
                raise ModelNotFoundError(part.spelling, self._nearest(part.name))
            if known.folder is None:
                raise AdapterIncompatibleError(part.name, known.reason)
            return self._checked_version(known, self._step(known.folder, part), part)

    def by_digest(self, digest: str) -> AdapterVersion:
        """A version handed out before."""
        with self._lock:
            return self._by_digest[digest]

    def record_load(self, digest: str, delta_norm: float) -> None:
        """Keep what loading found out, for the report."""
        with self._lock:
            self._delta_norms[digest] = delta_norm

    def models(self) -> list[ModelInfo]:
        """Every adapter that can be served, by name."""
        with self._lock:
            self._scan()
            return [info for name in sorted(self._known) if (info := self._published(name))]

    def warnings(self) -> list[str]:
        """One line for each adapter that cannot be served."""
        with self._lock:
            self._scan()
            lines: list[str] = []
            for name in sorted(self._known):
                try:
                    self.version(AdapterPart(name))
                except (AdapterIncompatibleError, ModelNotFoundError) as error:
                    lines.append(str(error))
            return lines

    def model(self, part: AdapterPart) -> ModelInfo:
        """One adapter or checkpoint; raises as `version` does."""
        with self._lock:
            version = self.version(part)
            folder = self._known[part.name].folder
            assert folder is not None
            return self._info(version, folder, is_checkpoint=part.checkpoint is not None)

    def _published(self, name: str) -> ModelInfo | None:
        try:
            return self.model(AdapterPart(name))
        except (AdapterIncompatibleError, ModelNotFoundError):
            return None

    def _scan(self) -> None:
        try:
            names = {entry.name for entry in self._root.iterdir() if is_adapter_name(entry.name)}
        except OSError as error:
            _log.warning("The adapters folder cannot be listed: %s", error)
            names = set[str]()
        for name in names | self._known.keys():
            self._look(name)

    def _look(self, name: str) -> _Known | None:
        """What is in the folder of this name now; None if there is none."""
        path = self._root / name
        known = self._known.get(name)
        try:
            if not self._is_inside(path) or not path.is_dir():
                raise FileNotFoundError
            seen = signature(path)
        except OSError:
            self._known.pop(name, None)
            return None
        if known is not None and known.signature == seen:
            return known
        fresh = self._read(path, seen)
        if fresh is None:
            self._known.pop(name, None)
            return None
        if known is not None and fresh.folder is None and known.folder and _settling(path):
            return known
        if known is not None:
            fresh.previous = {**known.previous, **known.versions}
        self._known[name] = fresh
        return fresh

    def _is_inside(self, path: Path) -> bool:
        """Not a link out of the adapters folder, and not reached by another spelling."""
        return path.resolve().parent == self._root.resolve() and path.resolve().name == path.name

    def _read(self, path: Path, seen: object) -> _Known | None:
        if any(file.is_symlink() and not self._stays_in(file) for file in path.iterdir()):
            return None
        try:
            return _Known(seen, read_adapter_folder(path))
        except AdapterFolderError as error:
            return _Known(seen, None, str(error))

    def _stays_in(self, link: Path) -> bool:
        return link.resolve().is_relative_to(self._root.resolve())

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
        if step in known.versions:
            return known.versions[step]
        assert known.folder is not None
        weights = known.folder.weights(step)
        if weights is None:
            raise AdapterIncompatibleError(part.name, "it has no published weights yet.")
        try:
            version = self._make_version(known.folder, step, weights)
        except (AdapterFileError, OSError) as error:
            if step in known.previous and _settling(known.folder.path):
                return known.previous[step]
            raise AdapterIncompatibleError(part.spelling, str(error)) from error
        known.versions = {**known.versions, step: version}
        self._remember(version)
        return version

    def _make_version(
        self, folder: AdapterFolder, step: int | None, weights: Path
    ) -> AdapterVersion:
        stat = weights.stat()
        return AdapterVersion(
            name=folder.name if step is None else f"{folder.name}@{step}",
            folder=folder.path,
            weights=weights,
            config=folder.config,
            prompt_format=folder.prompt_format,
            plan=plan_adapter(weights, folder.config, self._base_modules),
            digest=adapter_digest(folder.path, file_digest(weights)),
            created=int(stat.st_mtime),
            bytes=stat.st_size,
        )

    def _remember(self, version: AdapterVersion) -> None:
        self._by_digest[version.digest] = version
        while len(self._by_digest) > _MAX_VERSIONS:
            del self._by_digest[next(iter(self._by_digest))]

    def _info(
        self, version: AdapterVersion, folder: AdapterFolder, *, is_checkpoint: bool
    ) -> ModelInfo:
        recorded = version.prompt_format
        return ModelInfo(
            id=version.name,
            created=version.created,
            parent=folder.name if is_checkpoint else self._base_id,
            root=self._base_id,
            checkpoints=() if is_checkpoint else _checkpoints(folder),
            digest=version.digest,
            prompt_format=recorded.format if recorded else "chat",
            system=recorded.system if recorded else None,
            report=self._report(version),
        )

    def _report(self, version: AdapterVersion) -> LoadReport:
        plan = version.plan
        return LoadReport(
            format=plan.format,
            matched=len(plan.modules),
            rank=plan.rank,
            scale=plan.scale,
            delta_norm=self._delta_norms.get(version.digest),
            bytes=version.bytes,
            digest=version.digest,
            recorded_base=plan.recorded_base,
            warnings=self._report_warnings(version),
        )

    def _report_warnings(self, version: AdapterVersion) -> tuple[str, ...]:
        warnings: list[str] = []
        recorded = version.plan.recorded_base
        if recorded and _last_name(recorded) != _last_name(self._base_id):
            warnings.append(f"trained on {recorded}, served on {self._base_id}")
        if version.prompt_format is None:
            warnings.append("prompt.json is missing; the chat format is assumed")
        if self._delta_norms.get(version.digest) == 0:
            warnings.append("the update is zero: it changes nothing")
        return tuple(warnings)

    def _nearest(self, name: str) -> list[str]:
        names = [*self._known, self._base_id]
        by_lower: Callable[[str], str] = str.lower
        near = difflib.get_close_matches(name.lower(), map(by_lower, names), n=3, cutoff=0.5)
        return [next(n for n in names if n.lower() == lower) for lower in near]


def _settling(path: Path) -> bool:
    """Whether a file in the folder was written just now."""
    newest = max((file.stat().st_mtime for file in path.iterdir()), default=0.0)
    return time.time() - newest < _SETTLE_SECONDS


def _checkpoints(folder: AdapterFolder) -> tuple[CheckpointInfo, ...]:
    return tuple(
        CheckpointInfo(id=f"{folder.name}@{step}", step=step, bytes=file.stat().st_size)
        for step, file in folder.checkpoints.items()
    )


def _checkpoint_ids(folder: AdapterFolder) -> list[str]:
    return [f"{folder.name}@{step}" for step in folder.checkpoints]


def _last_name(model: str) -> str:
    """`Qwen/Qwen2.5-7B` and `models/Qwen2.5-7B` are the same model in different places."""
    return model.rstrip("/").rsplit("/", 1)[-1].lower()
