"""The version of an adapter, and of a base: one hash over all that decides what it writes.

Of an adapter that is the weights, the prompt format, and of `adapter_config.json` the keys that
change the arithmetic. A trainer writes that file anew at every checkpoint, to keep books: which
step is best, how the loss went. Nobody may take the same weights for new ones because of that. So
the known keys of bookkeeping are left out, and any key that is not known to be one counts. How a
file is spelled, the order of its keys, spaces, `2` or `2.0`, a default written out or not, counts
for nothing.

A base is another matter: reading 60 GB to hash them takes a minute, and nobody waits for that. So
of each tensor the name, type, shape and its first and last bytes count: another model, another
precision and a fused adapter change those of every tensor they touch. Which file holds a tensor
counts for nothing. Beside the weights all counts that decides what is written: the configuration
but for its bookkeeping, the tokenizer with its chat template, and the model's own sampling
defaults.
"""

import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import msgspec

from verse.adapter_config import MlxConfig, decode_adapter_config
from verse.adapter_folder import (
    CONFIG_FILE,
    PROMPT_FILE,
    AdapterFolderError,
    read_adapter_folder,
    read_small,
)
from verse.prompt import PromptFormat
from verse.safetensors_header import SafetensorsHeaderError, read_header

_BOOKKEEPING = frozenset(
    {
        # verse train
        *("base_valid_loss", "best_step", "history"),
        # mlx_lm.lora writes all its options; these say how training went about it
        *("adapter_path", "batch_size", "clear_cache_threshold", "config", "data"),
        *("grad_accumulation_steps", "grad_checkpoint", "iters", "learning_rate", "lr_schedule"),
        *("mask_prompt", "max_seq_length", "model", "optimizer", "optimizer_config"),
        *("project_name", "report_to", "resume_adapter_file", "save_every", "seed"),
        *("steps_per_eval", "steps_per_report", "test", "test_batches", "train"),
        *("trust_remote_code", "val_batches"),
        # PEFT
        *("auto_mapping", "base_model_name_or_path", "inference_mode", "lora_dropout"),
        *("peft_version", "revision", "task_type"),
    }
)
_BOOKKEEPING_OF_PARAMETERS = frozenset({"dropout"})
"""In mlx-lm's `lora_parameters`."""
_SETS = frozenset({"keys", "target_modules"})
"""Lists whose order means nothing; PEFT writes them as they come out of a set."""
_IN_ORDER = frozenset({"rank_pattern", "alpha_pattern"})
"""Objects whose order means something: the first pattern that fits a module counts."""


def file_digest(file: Path) -> bytes:
    """SHA-256 of a file without holding it in memory; of nothing if there is no file."""
    if not file.is_file():
        return hashlib.sha256().digest()
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").digest()


def adapter_digest(folder: Path, weights_digest: bytes) -> str:
    """The version of an adapter: SHA-256 over configuration, prompt format and weights, in hex."""
    parts = [_config_digest(folder / CONFIG_FILE), _prompt_digest(folder / PROMPT_FILE)]
    return hashlib.sha256(b"".join([*parts, weights_digest])).hexdigest()


def digest_at(path: Path, step: int | None) -> str | None:
    """The version of a checkpoint in a folder, of the published weights for None; None without."""
    try:
        weights = read_adapter_folder(path).weights(step)
    except AdapterFolderError:
        return None
    return None if weights is None else adapter_digest(path, file_digest(weights))


def _config_digest(file: Path) -> bytes:
    """Of what it means; of its bytes while they mean nothing."""
    try:
        data = read_small(file)
        record = decode_adapter_config(data)
        config = _without(_spelled_out(data, record), _BOOKKEEPING)
    except (OSError, ValueError, RecursionError):
        return file_digest(file)
    if isinstance(record, MlxConfig) and record.lora_parameters is not None:
        parameters = _without(config["lora_parameters"], _BOOKKEEPING_OF_PARAMETERS)
        config["lora_parameters"] = parameters
    return _digest(config)


def _prompt_digest(file: Path) -> bytes:
    try:
        data = read_small(file)
        return _digest(_spelled_out(data, msgspec.json.decode(data, type=PromptFormat)))
    except (OSError, ValueError, RecursionError):
        return file_digest(file)


def _spelled_out(data: bytes, record: msgspec.Struct) -> dict[str, Any]:
    """All keys of a JSON object, and what those that `record` knows are by default."""
    return _completed(msgspec.json.decode(data, type=dict[str, Any]), record)


def _completed(raw: Mapping[str, Any], record: msgspec.Struct) -> dict[str, Any]:
    values = {name: getattr(record, name) for name in record.__struct_fields__}
    known = {
        name: _completed(raw[name], value) if isinstance(value, msgspec.Struct) else value
        for name, value in values.items()
    }
    return {**raw, **known}


def _without(record: Mapping[str, Any], names: frozenset[str]) -> dict[str, Any]:
    return {name: value for name, value in record.items() if name not in names}


def _digest(record: Mapping[str, Any]) -> bytes:
    content = msgspec.json.encode(_plain(record), order="sorted")
    return hashlib.sha256(content).digest()


def _plain(value: Any, name: str = "") -> Any:
    """One spelling for all that mean the same: no nulls, no integers, sets in order."""
    match value:
        case dict():
            items = cast(dict[str, Any], value).items()
            plain = {key: _plain(part, key) for key, part in items if part is not None}
            return list(plain.items()) if name in _IN_ORDER else plain
        case list() | tuple():
            parts = [_plain(part) for part in cast(list[Any], value)]
            return sorted(parts, key=msgspec.json.encode) if name in _SETS else parts
        case int() if not isinstance(value, bool) and abs(value) < 2**53:
            return float(value)
        case _:
            return value


_SAMPLE_BYTES = 2048
"""From either end of a tensor."""
_STRANGE_BYTES = 1 << 20
"""Of a file that has more tensors than are listed here."""
_CONFIGURATION = ("config.json", "generation_config.json", "tokenizer_config.json")
_TOKENIZER = ("tokenizer.json", "tokenizer.model", "chat_template.jinja")
_BOOKKEEPING_OF_BASES = frozenset({"_name_or_path", "transformers_version"})
"""Keys of the configuration that say how a file came about."""


def base_digest(folder: Path) -> str:
    """SHA-256 over what a model folder holds, in hex; takes milliseconds, whatever its size.

    Raises:
        OSError: a file cannot be read.
    """
    parts = {name: _small_file_digest(folder / name) for name in (*_CONFIGURATION, *_TOKENIZER)}
    for file in sorted(folder.glob("model*.safetensors")):
        parts.update(_tensor_digests(file))
    listed = sorted((name, digest) for name, digest in parts.items() if digest)
    return hashlib.sha256(msgspec.json.encode(listed)).hexdigest()


def _small_file_digest(file: Path) -> str:
    """Of what a configuration says, of a tokenizer's bytes; empty if there is no file."""
    if not file.is_file():
        return ""
    data = file.read_bytes()
    if file.name in _CONFIGURATION:
        with suppress(ValueError, RecursionError):
            keys = msgspec.json.decode(data, type=dict[str, Any])
            kept = {
                name: value for name, value in keys.items() if name not in _BOOKKEEPING_OF_BASES
            }
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
