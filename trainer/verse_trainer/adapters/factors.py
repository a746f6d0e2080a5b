"""The numbers of an adapter: its factors, as they lie in the file, and what they amount to."""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import mlx.core as mx

from verse.adapter_config import AdapterConfig
from verse.adapter_files import (
    AdapterFileError,
    AdapterPlan,
    ModuleFactors,
    ModuleShape,
    plan_adapter,
)
from verse_trainer.errors import ConversionError

Tensors = dict[str, mx.array]


@dataclass(frozen=True)
class Adapter:
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
    file: Path, config: AdapterConfig, base_modules: dict[str, ModuleShape] | None = None
) -> Adapter:
    """Read a file of weights that fits its configuration and, if it is given, the base.

    Raises:
        ConversionError: it does not fit, or holds a number that is none.
    """
    try:
        plan = plan_adapter(file, config, base_modules)
    except AdapterFileError as error:
        raise ConversionError(f"{file} cannot be used: {error}") from error
    # From memory: whoever writes the file while it is mapped would end this process.
    tensors = mx.load(io.BytesIO(file.read_bytes()), format="safetensors")
    assert isinstance(tensors, dict)
    finite = mx.stack([mx.all(mx.isfinite(tensor)) for tensor in tensors.values()])
    if not mx.all(finite).item():
        raise ConversionError(
            f"{file} holds NaN or infinity, as after training that diverged; take an earlier "
            "checkpoint."
        )
    return Adapter(plan, tensors)


def delta_norms(adapter: Adapter) -> dict[str, float]:
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
