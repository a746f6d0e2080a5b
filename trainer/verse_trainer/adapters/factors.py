"""The numbers of an adapter: its factors, as they lie in the file, and what they amount to."""

import io
import struct
from array import array
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import mlx.core as mx
import msgspec

from verse.adapter_config import AdapterConfig
from verse.adapter_files import (
    AdapterFileError,
    AdapterPlan,
    ModuleFactors,
    ModuleShape,
    plan_adapter,
)
from verse.model_spelling import AdapterPart
from verse.safetensors_header import SafetensorsHeaderError, TensorEntry, read_header
from verse_trainer.adapters.facts import ModuleNorm
from verse_trainer.adapters.folders import choose, find
from verse_trainer.errors import ConversionError

Tensors = dict[str, mx.array]


@dataclass(frozen=True)
class AdapterTensors:
    """One file of weights, read.

    Attributes:
        plan: Which tensor is which factor of which module.
        tensors: By the names in the file, in the types they are stored in.
    """

    plan: AdapterPlan
    tensors: Tensors

    def a(self, factors: ModuleFactors) -> mx.array:
        """(in_dims, rank), as mlx-lm multiplies it."""
        array = self.tensors[factors.a]
        return array.T if factors.transposed else array

    def b(self, factors: ModuleFactors) -> mx.array:
        """(rank, out_dims), not scaled."""
        array = self.tensors[factors.b]
        return array.T if factors.transposed else array

    def m(self, factors: ModuleFactors) -> mx.array | None:
        """(out_dims,), DoRA's magnitude."""
        return None if factors.m is None else self.tensors[factors.m]


def read_adapter(
    file: Path,
    config: AdapterConfig,
    base_modules: dict[str, ModuleShape] | None = None,
    *,
    converts_float64: bool = False,
) -> AdapterTensors:
    """Read a file of weights that fits its configuration and, if it is given, the base.

    Args:
        file: The weights.
        config: What the folder says of them.
        base_modules: The base's Linear layers by path.
        converts_float64: Read such numbers as float32 instead of refusing them.

    Raises:
        ConversionError: it does not fit, or holds a number that is none.
    """
    try:
        plan = plan_adapter(file, config, base_modules, allows_float64=converts_float64)
        data = _without_float64(file) if converts_float64 else file.read_bytes()
    except (AdapterFileError, SafetensorsHeaderError) as error:
        raise ConversionError(f"{file} cannot be used: {error}") from error
    # From memory: whoever writes the file while it is mapped would end this process.
    tensors = mx.load(io.BytesIO(data), format="safetensors")
    assert isinstance(tensors, dict)
    used = (n for f in plan.modules.values() for n in (f.a, f.b, f.m) if n is not None)
    finite = mx.stack([mx.all(mx.isfinite(tensors[name])) for name in used])
    if not mx.all(finite).item():
        raise ConversionError(
            f"{file} holds NaN or infinity, as after training that diverged; take an earlier "
            "checkpoint."
        )
    return AdapterTensors(plan, tensors)


def _without_float64(file: Path) -> bytes:
    """The file with float32 where it has float64, which mlx cannot read."""
    header, data = read_header(file), file.read_bytes()
    entries: dict[str, TensorEntry] = {}
    parts: list[bytes] = []
    end = 0
    for name, entry in header.tensors.items():
        first, last = (header.data_start + offset for offset in entry.data_offsets)
        part, dtype = data[first:last], entry.dtype
        if dtype == "F64":
            # What float32 cannot hold becomes infinity, which is refused.
            part, dtype = array("f", array("d", part)).tobytes(), "F32"
        entries[name] = TensorEntry(dtype, entry.shape, (end, end + len(part)))
        parts.append(part)
        end += len(part)
    text = msgspec.json.encode(entries)
    return b"".join([struct.pack("<Q", len(text)), text, *parts])


def delta_norms(adapter: AdapterTensors) -> dict[str, float]:
    """Frobenius norm of each module's update, `scale * a @ b`.

    From the Gram matrices of the factors: rank x rank instead of in x out. DoRA's magnitude is not
    in it, since its effect depends on the base.
    """
    norms: dict[str, mx.array] = {}
    for module, factors in adapter.plan.modules.items():
        a = adapter.a(factors).astype(mx.float32)
        b = adapter.b(factors).astype(mx.float32) * factors.scale
        norms[module] = mx.sqrt(mx.maximum(mx.sum((a.T @ a) * (b @ b.T)), 0))
    return {module: cast(float, norm.item()) for module, norm in norms.items()}


def module_norms(root: Path, part: AdapterPart) -> tuple[list[ModuleNorm], list[str]]:
    """Every module with the norm of its update, and what is to be warned of.

    A folder without published weights is looked into at its newest checkpoint. Weights that cannot
    be used are a warning: `show` is what one turns to when something is broken.

    Raises:
        AdapterError: there is no such adapter or checkpoint.
    """
    if part.checkpoint is None and find(root, part.name).published is None:
        part = AdapterPart(part.name, "last")
    chosen = choose(root, part)
    try:
        adapter = read_adapter(chosen.weights, chosen.folder.config)
    except ConversionError as error:
        return [], [str(error)]
    norms = [
        ModuleNorm(
            module=module,
            in_dims=adapter.a(factors).shape[0],
            out_dims=adapter.b(factors).shape[1],
            rank=factors.rank,
            delta_norm=norm,
        )
        for (module, factors), norm in zip(
            adapter.plan.modules.items(), delta_norms(adapter).values(), strict=True
        )
    ]
    is_zero = not adapter.plan.uses_dora and all(norm.delta_norm == 0 for norm in norms)
    return norms, ["the update is zero: it changes nothing."] if is_zero else []
