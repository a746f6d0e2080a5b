"""`run.json`: where an adapter's weights come from, and whether a run may go on from them.

Nothing in it names a place on this machine, so the file can be shipped with the adapter.
"""

import hashlib
import platform
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, cast

import msgspec

from verse.adapter_digest import base_digest, file_digest
from verse.atomic_file import replace_file
from verse.base_model import BaseModel
from verse_trainer.config import TrainConfig, complete_schedule
from verse_trainer.errors import TrainingError
from verse_trainer.events import StopReason
from verse_trainer.material import Material
from verse_trainer.plan import Cadence

RECORD_FILE = "run.json"

_PATHS = ("model", "data", "adapter_path", "resume_adapter_file", "layer_cache_folder")
# These may change while a run goes on: none of them changes what a step does to the weights. The
# base, the data and the start are compared by their content.
_FREE = frozenset(
    {
        *_PATHS,
        "train",
        "test",
        "test_batches",
        "max_seq_length",
        "long_rows",
        "epochs",
        "iters",
        "steps_per_report",
        "patience",
        "resume",
        "grad_checkpoint",
        "layer_cache",
        "clear_cache_threshold",
        "sample_every",
        "sample_themes",
        "report_to",
        "project_name",
        "trust_remote_code",
    }
)
# Filled in from the number of rows, so that other rows show here too.
_DERIVED = frozenset({"save_every", "steps_per_eval", "lr_schedule"})
_ONLY_DPO = frozenset({"beta", "sft_weight"})
_HASHED_WHOLE_BYTES = 1 << 30


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """What the weights follow from; two runs that agree here are one run."""

    base: str
    """See `verse.adapter_digest.base_digest`."""
    train_rows: str
    """SHA-256 of the encoded rows."""
    valid_rows: str
    start: str | None
    """SHA-256 of `resume_adapter_file`."""
    config: dict[str, Any]
    """The keys that decide about the weights."""


class RunRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What `run.json` holds."""

    identity: Identity
    base: str
    """The base's id."""
    base_revision: str | None
    """Commit on Hugging Face, where that is where it comes from."""
    num_rows: int
    num_valid_rows: int
    valid_sources: tuple[str, ...]
    """Ids of the poems that validated."""
    config: dict[str, Any]
    """All of it."""
    versions: dict[str, str]
    started: datetime
    packs_rows: bool = False
    """Whether rows are packed (`packing.py`): dropout then draws other numbers. Earlier versions
    did not, and what they began goes on as it began."""
    resumed: tuple[int, ...] = ()
    """Steps at which it went on after a stop."""
    finished: datetime | None = None
    outcome: StopReason | None = None
    step: int = 0
    best_step: int | None = None
    best_valid_loss: float | None = None
    base_valid_loss: float | None = None


def identity_config(config: TrainConfig) -> dict[str, Any]:
    """The keys that decide about the weights."""
    without = _FREE if config.method == "dpo" else _FREE | _ONLY_DPO
    return {key: value for key, value in public_config(config).items() if key not in without}


def public_config(config: TrainConfig) -> dict[str, Any]:
    """The configuration as JSON has it, absolute paths shortened to their last name."""
    keys = cast(dict[str, Any], msgspec.json.decode(msgspec.json.encode(config)))
    return {key: _public(value) if key in _PATHS else value for key, value in keys.items()}


def check_same_run(recorded: Identity, now: Identity) -> None:
    """Refuse to go on with a run that is another one now.

    Raises:
        TrainingError: names the first key that differs.
    """
    derived = now.config.keys() & _DERIVED
    _check_keys(recorded, now, now.config.keys() - derived)
    changed = {
        "the base model": recorded.base != now.base,
        "the training rows": recorded.train_rows != now.train_rows,
        "the validation rows": recorded.valid_rows != now.valid_rows,
        "resume_adapter_file": recorded.start != now.start,
    }
    for what, differs in changed.items():
        if differs:
            raise TrainingError(f"The run cannot be resumed: {what} changed. {_WAY_OUT}")
    _check_keys(recorded, now, derived)


def _check_keys(recorded: Identity, now: Identity, keys: Iterable[str]) -> None:
    for key in sorted(keys):
        before, value = recorded.config.get(key), now.config[key]
        if before != value:
            raise TrainingError(
                f"The run cannot be resumed: {key} was {_shown(before)} and is {_shown(value)}. "
                + _WAY_OUT
            )


_WAY_OUT = "Put it back, or start a new run with another adapter_path."


def _same_base(recorded: str, digest: str, folder: Path) -> str:
    """The digest of a base, as the record has it: what was begun before bases had digests goes on.

    Then it was a hash of the configuration and the weights, of weights beyond 1 GiB their headers.
    """
    if recorded == digest:
        return digest
    files = sorted(folder.glob("*.safetensors"))
    is_small = sum(file.stat().st_size for file in files) <= _HASHED_WHOLE_BYTES
    earlier = hashlib.sha256(file_digest(folder / "config.json"))
    for file in files:
        earlier.update(f"{file.name}/{file.stat().st_size}/".encode())
        earlier.update(file_digest(file) if is_small else _header(file))
    return recorded if recorded == earlier.hexdigest() else digest


def base_revision(base: BaseModel) -> str | None:
    """The commit a model folder in Hugging Face's cache is named after."""
    path = base.path.resolve()
    return path.name if path.parent.name == "snapshots" else None


def versions() -> dict[str, str]:
    """Of everything that has a hand in the arithmetic."""
    packages = {"verse": "verse-workshop", "mlx": "mlx", "mlx-lm": "mlx-lm"}
    found = {name: metadata.version(package) for name, package in packages.items()}
    return {**found, "python": platform.python_version(), "system": platform.system()}


def now() -> datetime:
    """To the second, in UTC."""
    return datetime.now(UTC).replace(microsecond=0)


def read_record(folder: Path) -> RunRecord | None:
    """The record of the run in this folder; None if there is none.

    Raises:
        TrainingError: the file is no such record.
    """
    file = folder / RECORD_FILE
    try:
        return msgspec.json.decode(file.read_bytes(), type=RunRecord)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise TrainingError(
            f"{file} cannot be read ({error}); choose another adapter_path."
        ) from error


def write_record(folder: Path, record: RunRecord) -> None:
    """Replace the record.

    Raises:
        OSError: the disk is full or read-only.
    """
    data = msgspec.json.format(msgspec.json.encode(record), indent=1)
    replace_file(folder / RECORD_FILE, [data, b"\n"])


def _public(path: str | None) -> str | None:
    return Path(path).name if path and Path(path).is_absolute() else path


def _shown(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _header(file: Path) -> bytes:
    """The JSON in front of the tensors; its length stands in the first 8 bytes."""
    with file.open("rb") as stream:
        return stream.read(int.from_bytes(stream.read(8), "little"))


def record_of(
    config: TrainConfig,
    base: BaseModel,
    material: Material,
    cadence: Cadence,
    packs_rows: bool,
    is_first: bool,
) -> RunRecord:
    """The record of a run as it begins; `is_first`: on the rank that has what it starts from."""
    start = start_file(config) if is_first else None
    identity = Identity(
        base=base_digest(base.path),
        train_rows=material.hash("train"),
        valid_rows=material.hash("valid"),
        start=None if start is None else file_digest(start).hex(),
        config=_deciding_keys(config, cadence),
    )
    examples = material.pairs or material.rows
    return RunRecord(
        identity=identity,
        base=base.id if not Path(base.id).is_absolute() else base.path.name,
        base_revision=base_revision(base),
        num_rows=len(examples["train"]),
        num_valid_rows=len(examples.get("valid", ())),
        valid_sources=tuple(row.source for row in material.rows.get("valid", ()) if row.source),
        config=public_config(config),
        versions=versions(),
        started=now(),
        packs_rows=packs_rows,
    )


def _deciding_keys(config: TrainConfig, cadence: Cadence) -> dict[str, Any]:
    """With everything filled in that follows from the length of the run."""
    filled = config
    if config.lr_schedule is not None:
        complete = complete_schedule(
            config.lr_schedule, config.learning_rate, cadence.total_updates
        )
        filled = msgspec.structs.replace(config, lr_schedule=complete)
    filled = msgspec.structs.replace(
        filled, save_every=cadence.save_every, steps_per_eval=cadence.steps_per_eval
    )
    return identity_config(filled)


def continued(before: RunRecord, now: RunRecord, base: Path, *, is_new: bool) -> RunRecord:
    """The record of a run that goes on; the weights it started from need not be given again.

    Args:
        before: As it lies in the folder.
        now: Of what is asked for.
        base: The base's folder.
        is_new: Nothing was saved yet, so the first weights are needed once more.

    Raises:
        TrainingError: it would be another run, or lacks its first weights.
    """
    recorded = _same_base(before.identity.base, now.identity.base, base)
    identity = msgspec.structs.replace(now.identity, base=recorded)
    if is_new and before.identity.start is not None and identity.start is None:
        raise TrainingError(
            "The run stopped before it saved anything; give its resume_adapter_file again."
        )
    if identity.start is None:
        identity = msgspec.structs.replace(identity, start=before.identity.start)
    check_same_run(before.identity, identity)
    return msgspec.structs.replace(
        now, identity=identity, started=before.started, resumed=before.resumed
    )


def start_file(config: TrainConfig) -> Path | None:
    """The weights a run starts from, if it does not start anew."""
    file = config.resume_adapter_file
    return None if file is None else Path(file).expanduser()
