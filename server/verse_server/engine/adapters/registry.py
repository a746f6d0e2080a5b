"""Which adapters there are, found by looking at the folder when somebody asks.

Every question compares the files' sizes and times with those seen last, so a new, changed or
removed folder or checkpoint counts from the next request on; no thread watches, nothing restarts.
A version is its content: what a request was promised is a digest, and a digest never changes.

A question looks at the disk and may wait for another one that does, so nothing here is called on an
event loop but what is awaited. Nobody holds the lock while a file is hashed: see `version_reading`.
"""

import asyncio
import difflib
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, TypeVar

from verse.adapter_files import AdapterFileError, ModuleShape, UnmatchedModulesError
from verse.adapter_folder import AdapterFolder
from verse.model_spelling import AdapterPart
from verse_server.engine.adapters.limits import AdapterLimits
from verse_server.engine.adapters.listing import (
    AdapterListing,
    AdapterVersion,
    KnownFolder,
    base_doubt,
    model_info,
    was_just_written,
)
from verse_server.engine.adapters.version_reading import VersionReader, background_threads
from verse_server.engine.errors import (
    AdapterIncompatibleError,
    InvalidRequestError,
    ModelNotFoundError,
)
from verse_server.engine.types import AdapterInfo, ModelInfo

_MAX_VERSIONS = 4096
"""Versions remembered by digest; far more than can be running or waiting."""

_HIDDEN = "It was unloaded; POST /v1/load_lora_adapter brings it back."


_MAX_LOOKUPS = 4
"""Questions that look at the disk at once."""
_WORK_SECONDS = 0.002
_PAUSE_SECONDS = 0.002
"""Of a listing, in turn."""

T = TypeVar("T")


class _Found(NamedTuple):
    """Where the answer to a question lies."""

    part: AdapterPart
    known: KnownFolder
    step: int | None
    reading: "Future[AdapterVersion] | None"
    """Of files that are new."""


class AdapterRegistry:
    """The adapters folder. Any thread may ask."""

    def __init__(
        self,
        root: Path,
        base_id: str,
        base_modules: Mapping[str, ModuleShape],
        limits: AdapterLimits | None = None,
    ) -> None:
        self._base_id = base_id
        self._listing = AdapterListing(root, base_id)
        self._reader = VersionReader(base_modules, limits or AdapterLimits())
        self._lookups = background_threads(_MAX_LOOKUPS, "registry")
        self._by_digest: dict[str, AdapterVersion] = {}
        self._delta_norms: dict[str, float] = {}
        self._failures: dict[str, str] = {}
        self._hidden: set[str] = set()
        # Held while one folder is looked at.
        self._lock = threading.RLock()
        # Held while all are, one after another.
        self._listings = threading.Lock()
        # For what the engine thread asks: it never waits for a disk.
        self._memory_lock = threading.Lock()

    async def ask(self, question: Callable[[], T]) -> T:
        """Have one of the methods below called in a thread, off the event loop."""
        return await asyncio.get_running_loop().run_in_executor(self._lookups, question)

    async def find_version(self, part: AdapterPart) -> AdapterVersion:
        """As `version`. Takes no thread while a file is hashed, so nobody else waits for that."""
        found = await self.ask(lambda: self._find(part))
        if found.reading is not None:
            await _done(found.reading)
        return await self.ask(lambda: self._version(found))

    def version(self, part: AdapterPart) -> AdapterVersion:
        """The version that a part of a spelling means now.

        Raises:
            ModelNotFoundError: there is no such adapter or checkpoint.
            AdapterIncompatibleError: it cannot be served on this base.
        """
        return self._version(self._find(part))

    def hide(self, name: str) -> None:
        """Serve this adapter to nobody until `show`.

        Raises:
            ModelNotFoundError: there is no such folder, or it is hidden already.
        """
        with self._lock:
            if name in self._hidden:
                raise ModelNotFoundError(name, reason=_HIDDEN)
            if self._listing.find(name) is None:
                raise ModelNotFoundError(name, self._nearest(name))
            self.hide_again(name)

    def hide_again(self, name: str) -> None:
        """Take `show` back, whatever has become of the folder. Never waits for a disk."""
        with self._memory_lock:
            self._hidden.add(name)

    def show(self, name: str) -> bool:
        """Take `hide` back; whether it was hidden."""
        with self._memory_lock:
            was_hidden = name in self._hidden
            self._hidden.discard(name)
            return was_hidden

    def check_path(self, name: str, path: str) -> None:
        """Make sure that a path, absolute or below the adapters folder, is that adapter's folder.

        Raises:
            InvalidRequestError: it is another place.
        """
        if not self._listing.leads_to(name, path):
            raise InvalidRequestError(
                f"The path is not that of {name!r} in the adapters folder; adapters are served "
                "from there, each under its folder's name.",
                param="lora_path",
            )

    def folders(self) -> list[AdapterInfo]:
        """Every adapter folder, also those that are hidden or cannot be served, by name."""
        return [self._info(name, known) for name, known in self._all()]

    def folder(self, name: str) -> AdapterInfo:
        """One adapter folder, also if it is hidden or cannot be served."""
        with self._lock:
            known = self._listing.find(name)
        return self._info(name, known)

    def _info(self, name: str, known: KnownFolder | None) -> AdapterInfo:
        if name in self._hidden:
            return AdapterInfo(id=name, state="unloaded")
        try:
            info = self._model(self._found(AdapterPart(name, _first_step(known)), known))
        except (AdapterIncompatibleError, ModelNotFoundError) as error:
            unmatched = error.unmatched if isinstance(error, AdapterIncompatibleError) else ()
            return AdapterInfo(id=name, state="refused", error=str(error), unmatched=unmatched)
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
        return [
            info
            for name, known in self._all()
            if name not in self._hidden
            for info in self._served(name, known)
        ]

    def warnings(self) -> list[str]:
        """One line for each folder that cannot be served, or is served with a doubt."""
        folders = list(self._all())
        with self._lock:
            lines = self._listing.overlooked()
        for name, known in folders:
            try:
                found = self._found(AdapterPart(name, _first_step(known)), known)
                version = self._version(found)
                if doubt := base_doubt(version, self._base_id):
                    lines.append(f"The adapter {name!r} was {doubt}.")
            except (AdapterIncompatibleError, ModelNotFoundError) as error:
                lines.append(str(error))
        return lines

    def model(self, part: AdapterPart) -> ModelInfo:
        """One adapter or checkpoint; raises as `version` does."""
        return self._model(self._find(part))

    def _model(self, found: _Found) -> ModelInfo:
        version = self._version(found)
        return model_info(
            version,
            self._base_id,
            found.known.folder if found.part.checkpoint is None else None,
            self._delta_norms.get(version.digest),
        )

    def _all(self) -> Iterator[tuple[str, KnownFolder]]:
        """The folders that are adapters or want to be, each looked at once, by name.

        Thousands take seconds, and the engine's thread needs Python, too. So there is a rest after
        each bit of work, and whoever asks for the same meanwhile waits instead of working beside.
        """
        with self._listings:
            with self._lock:
                names = sorted(self._listing.list_names())
            since = time.monotonic()
            for name in names:
                with self._lock:
                    known = self._listing.look(name)
                if known is not None:
                    yield name, known
                if time.monotonic() - since > _WORK_SECONDS:
                    time.sleep(_PAUSE_SECONDS)
                    since = time.monotonic()

    def _served(self, name: str, known: KnownFolder) -> list[ModelInfo]:
        """The adapter; while it has no published weights, each of its checkpoints."""
        if known.folder is None:
            return []
        folder = known.folder
        steps = [None] if folder.published else list(folder.checkpoints)
        infos: list[ModelInfo] = []
        for step in steps:
            with suppress(AdapterIncompatibleError, ModelNotFoundError):
                infos.append(self._model(self._found(AdapterPart(name, step), known)))
        return infos

    def _find(self, part: AdapterPart) -> _Found:
        """Look at the folder that a part names."""
        with self._lock:
            if part.name in self._hidden:
                raise ModelNotFoundError(part.spelling, reason=_HIDDEN)
            return self._found(part, self._listing.find(part.name))

    def _found(self, part: AdapterPart, known: KnownFolder | None) -> _Found:
        """What a part means of a folder that has been looked at."""
        if known is None:
            raise ModelNotFoundError(part.spelling, self._nearest(part.name))
        if known.folder is None:
            raise AdapterIncompatibleError(part.name, known.reason)
        try:
            step = known.folder.step_of(part.checkpoint)
        except LookupError:
            ids = _checkpoint_ids(known.folder)
            raise ModelNotFoundError(part.spelling, ids) from None
        is_read = step in known.versions
        return _Found(part, known, step, None if is_read else self._reader.read(known, step))

    def _version(self, found: _Found) -> AdapterVersion:
        part, known, step, reading = found
        try:
            version = known.versions[step] if reading is None else reading.result()
        except (AdapterFileError, OSError) as error:
            assert known.folder is not None
            if step in known.previous and was_just_written(known.folder.path):
                return known.previous[step]
            unmatched = error.unmatched if isinstance(error, UnmatchedModulesError) else ()
            raise AdapterIncompatibleError(part.spelling, str(error), unmatched) from error
        self._remember(version)
        return self._sound(version)

    def _sound(self, version: AdapterVersion) -> AdapterVersion:
        if reason := self._failures.get(version.digest):
            raise AdapterIncompatibleError(version.name, reason)
        return version

    def _remember(self, version: AdapterVersion) -> None:
        """The last one handed out counts: a copy in another folder may be gone by now."""
        with self._memory_lock:
            self._by_digest.pop(version.digest, None)
            self._by_digest[version.digest] = version
            while len(self._by_digest) > _MAX_VERSIONS:
                del self._by_digest[next(iter(self._by_digest))]

    def _nearest(self, name: str) -> list[str]:
        names = {n.lower(): n for n in (*self._listing.names, self._base_id)}
        return [names[n] for n in difflib.get_close_matches(name.lower(), names, cutoff=0.5)]


def _first_step(known: KnownFolder | None) -> int | None:
    """None for the published weights; a folder that has none yet is judged by its newest."""
    if known is None or known.folder is None or known.folder.published:
        return None
    return known.folder.last_step


async def _done(reading: "Future[AdapterVersion]") -> None:
    """Wait for the end of it. Unlike with `asyncio.wrap_future`, who leaves cancels nothing."""
    loop, done = asyncio.get_running_loop(), asyncio.Event()

    def tell(_: object) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody waits there any more
            loop.call_soon_threadsafe(done.set)

    reading.add_done_callback(tell)
    await done.wait()


def _checkpoint_ids(folder: AdapterFolder) -> list[str]:
    return [f"{folder.name}@{step}" for step in folder.checkpoints]
