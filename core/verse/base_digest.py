"""The version of a base model: one hash that two machines compare before they share work.

Reading 60 GB to hash them takes a minute, and nobody waits for that. So of each tensor the name,
type, shape and its first and last bytes count: another model, another precision and a fused adapter
change those of every tensor they touch. Which file holds a tensor counts for nothing. Beside the
weights all counts that decides what is written: the configuration but for its bookkeeping, the
tokenizer with its chat template, and the model's own sampling defaults.
"""

import hashlib
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from verse.safetensors_header import SafetensorsHeaderError, read_header

_SAMPLE_BYTES = 2048
"""From either end of a tensor."""
_STRANGE_BYTES = 1 << 20
"""Of a file that has more tensors than are listed here."""
_CONFIGURATION = ("config.json", "generation_config.json", "tokenizer_config.json")
_TOKENIZER = ("tokenizer.json", "tokenizer.model", "chat_template.jinja")
_BOOKKEEPING = frozenset({"_name_or_path", "transformers_version"})
"""Keys of the configuration that say how a file came about."""


def base_digest(folder: Path) -> str:
    """SHA-256 over what a model folder holds, in hex; takes milliseconds, whatever its size.

    Raises:
        OSError: a file cannot be read.
    """
    parts = {name: _file_digest(folder / name) for name in (*_CONFIGURATION, *_TOKENIZER)}
    for file in sorted(folder.glob("model*.safetensors")):
        parts.update(_tensor_digests(file))
    listed = sorted((name, digest) for name, digest in parts.items() if digest)
    return hashlib.sha256(msgspec.json.encode(listed)).hexdigest()


def _file_digest(file: Path) -> str:
    """Of what a configuration says, of a tokenizer's bytes; empty if there is no file."""
    if not file.is_file():
        return ""
    data = file.read_bytes()
    if file.name in _CONFIGURATION:
        with suppress(ValueError, RecursionError):
            keys = msgspec.json.decode(data, type=dict[str, Any])
            kept = {name: value for name, value in keys.items() if name not in _BOOKKEEPING}
            data = msgspec.json.encode(kept, order="sorted")
    return hashlib.sha256(data).hexdigest()


def _tensor_digests(file: Path) -> Iterator[tuple[str, str]]:
    """Each tensor's name with a hash of what is looked at; of a strange file, of its beginning."""
    with file.open("rb", buffering=0) as stream:
        try:
            header = read_header(file)
        except SafetensorsHeaderError:
            size = os.fstat(stream.fileno()).st_size
            beginning = stream.read(_STRANGE_BYTES)
            yield file.name, hashlib.sha256(b"%d " % size + beginning).hexdigest()
            return
        for name, entry in header.tensors.items():
            begin, end = (header.data_start + offset for offset in entry.data_offsets)
            seen = hashlib.sha256(msgspec.json.encode([entry.dtype, entry.shape]))
            for start in (begin, max(begin, end - _SAMPLE_BYTES)):
                stream.seek(start)
                seen.update(stream.read(min(_SAMPLE_BYTES, end - start)))
            yield f"tensor {name}", seen.hexdigest()
