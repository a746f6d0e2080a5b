"""An adapter's update as numbers, read from either dialect.

    mlx-lm   x -> scale * (x @ lora_a) @ lora_b           lora_a (in, rank), lora_b (rank, out)
    PEFT     x -> alpha / r * x @ lora_A.T @ lora_B.T     lora_A (rank, in), lora_B (out, rank)

Only Linear layers: adapters on embeddings and on mixtures of experts are refused.
"""

import re
from pathlib import Path
from typing import Any

import mlx.core as mx
import msgspec
import numpy as np
from numpy.typing import NDArray

from verse.adapter_config import AdapterConfig, PeftConfig
from verse_trainer.errors import ConversionError

Array = NDArray[np.float32]

MLX_NAME = re.compile(r"(?P<module>.+)\.(?P<leaf>lora_a|lora_b|m)")
PEFT_NAME = re.compile(
    r"(?:base_model\.model\.)?(?P<module>.+)\."
    r"(?P<leaf>lora_A|lora_B|lora_magnitude_vector)(?:\.default)?(?:\.weight)?"
)
_LEAVES = {"lora_A": "lora_a", "lora_B": "lora_b", "lora_magnitude_vector": "m"}


class Factors(msgspec.Struct, frozen=True, kw_only=True):
    """The update of one Linear layer, in mlx-lm's orientation."""

    a: Array
    """(in, rank)"""
    b: Array
    """(rank, out)"""
    scale: float
    m: Array | None = None
    """DoRA's magnitude, (out,)."""

    @property
    def rank(self) -> int:
        """Columns of `a`."""
        return self.a.shape[1]

    @property
    def delta_norm(self) -> float:
        """Frobenius norm of `scale * a @ b`, without making the product."""
        gram = (self.a.T @ self.a) @ (self.b @ self.b.T)
        return abs(self.scale) * float(np.sqrt(max(np.trace(gram), 0.0)))


def read_factors(weights: Path, config: AdapterConfig) -> dict[str, Factors]:
    """All modules of a weights file, by their path in the model.

    Raises:
        ConversionError: the file is broken, or holds more than updates of Linear layers.
    """
    is_peft = isinstance(config, PeftConfig)
    modules: dict[str, dict[str, Array]] = {}
    for name, array in read_tensors(weights).items():
        match = (PEFT_NAME if is_peft else MLX_NAME).fullmatch(name)
        if match is None or array.ndim > 2 or match["module"].endswith("embed_tokens"):
            raise ConversionError(
                f"{weights}: {name} is no update of a Linear layer, which is all that converts."
            )
        leaf = _LEAVES.get(match["leaf"], match["leaf"])
        modules.setdefault(match["module"], {})[leaf] = array.T if is_peft else array
    if not modules:
        raise ConversionError(f"{weights} holds no update at all.")
    return {module: _factors(weights, module, arrays, config) for module, arrays in modules.items()}


def read_tensors(weights: Path) -> dict[str, Array]:
    """Every tensor as float32.

    Raises:
        ConversionError: it is no whole safetensors file.
    """
    try:
        loaded: Any = mx.load(str(weights), format="safetensors")
        return {name: np.array(array.astype(mx.float32)) for name, array in loaded.items()}
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise ConversionError(f"{weights} is not a whole safetensors file: {reason}.") from error


def _factors(
    weights: Path, module: str, arrays: dict[str, Array], config: AdapterConfig
) -> Factors:
    if "lora_a" not in arrays or "lora_b" not in arrays:
        raise ConversionError(f"{weights}: {module} has only one of its two factors.")
    factors = Factors(
        a=arrays["lora_a"], b=arrays["lora_b"], m=arrays.get("m"), scale=config.scale_of(module)
    )
    if factors.rank != config.rank_of(module) or factors.b.shape[0] != factors.rank:
        raise ConversionError(
            f"{weights}: {module} has rank {factors.rank} where adapter_config.json says "
            f"{config.rank_of(module)}."
        )
    if config.uses_dora != (factors.m is not None):
        raise ConversionError(f"{weights}: {module} and adapter_config.json differ about DoRA.")
    return factors
