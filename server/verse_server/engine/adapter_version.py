"""One version of an adapter, and what `/v1/models` tells about it. No tensor is read."""

from contextlib import suppress
from pathlib import Path

import msgspec

from verse.adapter_config import AdapterConfig
from verse.adapter_files import AdapterPlan
from verse.adapter_folder import AdapterFolder
from verse.prompt import PromptFormat
from verse_server.engine.types import CheckpointInfo, LoadReport, ModelInfo


class AdapterVersion(msgspec.Struct, frozen=True, kw_only=True):
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
    warnings: list[str] = []
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
