"""Import and export: read a folder, write it in the dialect that is wanted, check the numbers."""

import shutil
from pathlib import Path
from typing import Any, Literal

import mlx.core as mx
import msgspec

from verse.adapter_config import MlxConfig, PeftConfig
from verse.adapter_files import AdapterPlan, ModuleShape
from verse.adapter_folder import (
    CONFIG_FILE,
    MLX_WEIGHTS_FILE,
    PEFT_WEIGHTS_FILE,
    PROMPT_FILE,
    AdapterFolder,
    AdapterFolderError,
    read_adapter_folder,
)
from verse.atomic_file import replace_file
from verse.base_model import linear_layers, linear_shapes, load_base_model
from verse.prompt import PromptFormat
from verse_trainer.adapters.convert import compare_updates, to_mlx, to_peft
from verse_trainer.adapters.factors import AdapterTensors, Tensors, read_adapter
from verse_trainer.adapters.folders import Chosen, check_name
from verse_trainer.adapters.staging import refuse_existing, staged
from verse_trainer.errors import ConversionError

Dialect = Literal["mlx", "peft"]

_KEPT_BESIDE = (PROMPT_FILE, "run.json")
_FUSED = ("c_attn", "query_key_value", "qkv_proj", "Wqkv", "W_pack", "gate_up_proj", "in_proj")
"""One layer for several projections in the Hugging Face model; mlx-lm may have split it."""


class Transfer(msgspec.Struct, frozen=True, kw_only=True):
    """What was written, and how well both sides agree."""

    target: Path
    num_modules: int
    rank: int
    scale: float
    difference: float
    """Largest relative difference that the self-check found."""
    has_prompt_format: bool
    notes: tuple[str, ...]
    """What of the source was left out."""


class _Dropouts(msgspec.Struct, frozen=True):
    """Where the two dialects keep what only matters to further training."""

    lora_dropout: float = 0.0
    lora_parameters: dict[str, Any] = {}

    @property
    def value(self) -> float:
        return float(self.lora_parameters.get("dropout", self.lora_dropout))


def import_folder(
    source: Path,
    root: Path,
    *,
    name: str | None = None,
    base: str | None = None,
    prompt_format: PromptFormat | None = None,
) -> Transfer:
    """Make a PEFT folder an adapter of ours.

    Args:
        source: The PEFT folder; it is only read.
        root: The adapters folder.
        name: Of the adapter; the folder's own if None.
        base: A base model it must fit, recorded instead of PEFT's; None to check nothing.
        prompt_format: Recorded in place of the folder's own `prompt.json`, which it may not have.

    Raises:
        AdapterError: the name is none, or taken.
        ConversionError: the folder cannot be converted, or not without changing what it does.
    """
    target = root / check_name(name or source.resolve().name)
    refuse_existing(target)
    folder = _read_peft(source)
    if _is_base_name(target.name, base or folder.config.recorded_base):
        raise ConversionError(f"{target.name!r} is the base's own name; give another with --name.")
    adapter = _read_weights(folder, folder.published, base, converts_float64=True)
    if base is None:
        _refuse_fused(adapter)
    with staged(target) as stage:
        _write_mlx(stage, folder, adapter, base)
        _keep_beside(folder.path, stage)
        if prompt_format is not None:
            replace_file(stage / PROMPT_FILE, [_json(prompt_format)])
        assert folder.published is not None
        return _report(folder, folder.published, adapter.plan, stage, target)


def export_folder(
    chosen: Chosen, to: Dialect, output: Path, *, base: str | None = None
) -> Transfer:
    """Write one checkpoint of an adapter as a folder for another program.

    Args:
        chosen: The weights.
        to: `mlx` for plain mlx-lm, `peft` for PEFT and what reads its folders.
        output: The new folder.
        base: Name of the base to record instead of the adapter's own.

    Raises:
        ConversionError: the output already exists, or the adapter cannot be converted.
    """
    refuse_existing(output)
    folder = chosen.folder
    adapter = _read_weights(folder, chosen.weights, None)
    is_peft = isinstance(folder.config, PeftConfig)
    with staged(output) as stage:
        if is_peft == (to == "peft"):
            _copy(stage, chosen, base)
        elif is_peft:
            _write_mlx(stage, folder, adapter, base)
        else:
            tensors, config = to_peft(adapter, dropout=_dropout(folder), base=_base(folder, base))
            _save(stage / PEFT_WEIGHTS_FILE, tensors)
            replace_file(stage / CONFIG_FILE, [_json(config)])
        _keep_beside(folder.path, stage)
        return _report(folder, chosen.weights, adapter.plan, stage, output)


def _read_peft(source: Path) -> AdapterFolder:
    if not source.is_dir():
        raise ConversionError(f"There is no folder {source}.")
    try:
        folder = read_adapter_folder(source)
    except AdapterFolderError as error:
        raise ConversionError(f"{source} cannot be imported: {error}") from error
    if isinstance(folder.config, MlxConfig):
        raise ConversionError(
            f"{source} is in mlx-lm's format already; copy it into the adapters folder."
        )
    return folder


def _read_weights(
    folder: AdapterFolder, weights: Path | None, base: str | None, *, converts_float64: bool = False
) -> AdapterTensors:
    assert weights is not None
    shapes = None if base is None else base_shapes(base)
    return read_adapter(weights, folder.config, shapes, converts_float64=converts_float64)


def base_shapes(base: str) -> dict[str, ModuleShape]:
    """The Linear layers of a base model; its weights stay on the disk."""
    return linear_shapes(linear_layers(load_base_model(base, as_stored=True).model))


def _is_base_name(name: str, base: str | None) -> bool:
    """Whether the server would take the name for the base's."""
    return base is not None and Path(base).name == name


def _refuse_fused(adapter: AdapterTensors) -> None:
    for module in adapter.plan.modules:
        if ".experts." in module:
            raise ConversionError(
                f"{module} is one expert of a mixture, which mlx-lm keeps stacked; such adapters "
                "cannot be imported."
            )
        if module.rsplit(".", 1)[-1] in _FUSED:
            raise ConversionError(
                f"{module} is several projections in one, which mlx-lm may have split; name the "
                "base with --base, so that it can be looked up."
            )


def _write_mlx(
    stage: Path, folder: AdapterFolder, adapter: AdapterTensors, base: str | None
) -> None:
    tensors, config = to_mlx(adapter, dropout=_dropout(folder), base=_base(folder, base))
    _save(stage / MLX_WEIGHTS_FILE, tensors)
    replace_file(stage / CONFIG_FILE, [_json(config)])


def _copy(stage: Path, chosen: Chosen, base: str | None) -> None:
    """The same dialect: the file as it is, and what plain mlx-lm misses in its configuration."""
    folder = chosen.folder
    recorded = msgspec.json.decode((folder.path / CONFIG_FILE).read_bytes(), type=dict[str, Any])
    if isinstance(folder.config, PeftConfig):
        weights, key = PEFT_WEIGHTS_FILE, "base_model_name_or_path"
    else:
        weights, key = MLX_WEIGHTS_FILE, "model"
        parameters: dict[str, Any] = recorded["lora_parameters"]
        scale = folder.config.scale_of("")
        recorded["lora_parameters"] = {"dropout": 0.0, **parameters, "scale": scale}
        recorded.setdefault("num_layers", -1)
        # Early versions of mlx-lm wrote `use_dora` instead, which today's does not read.
        recorded.setdefault("fine_tune_type", "dora" if folder.config.uses_dora else "lora")
        if chosen.step not in (None, folder.config.best_step):
            recorded.pop("best_step", None)
    shutil.copyfile(chosen.weights, stage / weights)
    replace_file(stage / CONFIG_FILE, [_json({**recorded, key: _base(folder, base)})])


def _base(folder: AdapterFolder, base: str | None) -> str | None:
    return base or folder.config.recorded_base


def _dropout(folder: AdapterFolder) -> float:
    try:
        return msgspec.json.decode((folder.path / CONFIG_FILE).read_bytes(), type=_Dropouts).value
    except (TypeError, ValueError):  # it changes nothing in what the adapter computes
        return 0.0


def _keep_beside(source: Path, stage: Path) -> None:
    for name in _KEPT_BESIDE:
        if (source / name).is_file():
            shutil.copyfile(source / name, stage / name)


def _save(file: Path, tensors: Tensors) -> None:
    # PEFT's and transformers' loaders look for `format`; mlx-lm's does not mind it.
    kind = "pt" if file.name == PEFT_WEIGHTS_FILE else "mlx"
    mx.save_safetensors(str(file), tensors, {"format": kind})  # pyright: ignore[reportUnknownMemberType]


def _json(config: msgspec.Struct | dict[str, Any]) -> bytes:
    return msgspec.json.format(msgspec.json.encode(config), indent=1)


def _report(
    before: AdapterFolder, weights: Path, source: AdapterPlan, stage: Path, target: Path
) -> Transfer:
    """The self-check: what was written, read back, against what was there."""
    after = read_adapter_folder(stage)
    assert after.published is not None
    written = read_adapter(after.published, after.config)
    return Transfer(
        target=target,
        num_modules=len(written.plan.modules),
        rank=written.plan.rank,
        scale=written.plan.scale,
        difference=compare_updates((weights, before.config), (after.published, after.config)),
        has_prompt_format=after.prompt_format is not None,
        notes=source.notes,
    )
