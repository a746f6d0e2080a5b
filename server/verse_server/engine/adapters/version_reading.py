"""Adapter files become versions: planned, checked and hashed in a few threads, each file once.

A large file on a slow disk takes seconds. Whoever asks for it meanwhile gets the same future;
whoever asks for another adapter waits for nothing. When a version is to be loaded, its file is read
here, too, and hashed once more: what gets into a slot is what was asked for.
"""

import hashlib
import os
import sys
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress

import numpy as np

from verse.adapter_digest import adapter_digest, file_digest
from verse.adapter_files import AdapterFileError, ModuleShape, plan_adapter
from verse.adapter_folder import AdapterFolder, signature
from verse_server.engine.adapters.limits import AdapterLimits
from verse_server.engine.adapters.listing import AdapterVersion, KnownFolder
from verse_server.engine.errors import AdapterChangedError

_MAX_READERS = 8
"""So many large files at once; those of a slow disk leave the others their turn."""
_NICENESS = 10

_Key = tuple[str, object, int | None]


def background_threads(num_threads: int, name: str) -> ThreadPoolExecutor:
    """Threads that work while the engine leaves them time, where the system knows such."""
    return ThreadPoolExecutor(num_threads, name, initializer=_step_back)


def _step_back() -> None:
    if sys.platform == "linux":  # elsewhere the priority is the whole process's
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)


class VersionReader:
    """Any thread may ask."""

    def __init__(self, base_modules: Mapping[str, ModuleShape], limits: AdapterLimits) -> None:
        self._base_modules = base_modules
        self._limits = limits
        self._threads = background_threads(_MAX_READERS, "hash")
        self._lock = threading.Lock()
        self._reading: dict[_Key, Future[AdapterVersion]] = {}

    def read(self, known: KnownFolder, step: int | None) -> "Future[AdapterVersion]":
        """What a folder's published weights, or one of its checkpoints, are; noted in `known`.

        Its outcome may be an AdapterFileError or an OSError.
        """
        assert known.folder is not None
        key = str(known.folder.path), known.signature, step
        with self._lock:
            future = self._reading.get(key)
            if future is not None:
                return future
            future = self._threads.submit(self._read, known, known.folder, step)
            self._reading[key] = future
        future.add_done_callback(lambda _: self._forget(key))
        return future

    def _forget(self, key: _Key) -> None:
        with self._lock:
            del self._reading[key]

    def _read(self, known: KnownFolder, folder: AdapterFolder, step: int | None) -> AdapterVersion:
        version = self._make(folder, step)
        if signature(folder.path) != known.signature:
            raise AdapterFileError("its files changed while they were read; send it again.")
        with self._lock:
            known.versions = {**known.versions, step: version}
        return version

    def _make(self, folder: AdapterFolder, step: int | None) -> AdapterVersion:
        weights = folder.weights(step)
        if weights is None:
            raise AdapterFileError(
                f"it has no published weights yet; {folder.name}@last is its newest checkpoint."
            )
        stat = weights.stat()
        plan = plan_adapter(weights, folder.config, self._base_modules)
        memory_bytes = self._limits.check(plan, self._base_modules)  # before it is hashed
        return AdapterVersion(
            name=folder.name if step is None else f"{folder.name}@{step}",
            adapter=folder.name,
            folder=folder.path,
            weights=weights,
            config=folder.config,
            prompt_format=folder.prompt_format,
            unread_prompt_keys=folder.unread_prompt_keys,
            plan=plan,
            digest=adapter_digest(folder.path, file_digest(weights)),
            created=int(stat.st_mtime),
            bytes=stat.st_size,
            memory_bytes=memory_bytes,
        )


_NUM_READERS = 2
_READ_BYTES = 1 << 20


def read_weights(version: AdapterVersion) -> memoryview:
    """The whole file, in memory that no other hand can change.

    Raises:
        AdapterChangedError: it is not what was asked for any more.
    """
    data = np.empty(version.bytes, np.uint8).data  # not written to before it is read
    digest = hashlib.sha256()
    try:
        with version.weights.open("rb") as stream:
            for start in range(0, version.bytes, _READ_BYTES):
                piece = data[start : start + _READ_BYTES]
                if stream.readinto(piece) != len(piece):
                    raise AdapterChangedError(version.name)
                digest.update(piece)
            is_longer = bool(stream.read(1))
    except OSError as error:
        raise AdapterChangedError(version.name) from error
    if is_longer or adapter_digest(version.folder, digest.digest()) != version.digest:
        raise AdapterChangedError(version.name)
    return data


class WeightsReader:
    """Reads files for the engine's thread."""

    def __init__(self) -> None:
        self._threads = background_threads(_NUM_READERS, "weights")

    def read(self, version: AdapterVersion, on_read: Callable[[], None]) -> "Future[memoryview]":
        """Begin to read a file; `on_read` is called from another thread at the end."""
        future = self._threads.submit(read_weights, version)
        future.add_done_callback(lambda _: on_read())
        return future
