"""The shapes of models that are often trained, so that a run can be foretold before a download.

From the config.json of Qwen/Qwen2.5-{0.5B,1.5B,3B,7B,14B,32B,72B}-Instruct and of
Qwen/Qwen3-{0.6B,1.7B,4B,8B,14B,32B}; the numbers are the same in mlx-community's conversions.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgspec

from verse.folders import located_model
from verse_trainer.memory import Architecture, Quantization, read_architecture

_KEYS = (
    "hidden_size",
    "num_hidden_layers",
    "intermediate_size",
    "num_attention_heads",
    "num_key_value_heads",
    "vocab_size",
    "tie_word_embeddings",
    "head_dim",
)
_NUMBERS: Mapping[str, tuple[int, int, int, int, int, int, bool, int]] = MappingProxyType(
    {
        "qwen2.5-0.5b": (896, 24, 4864, 14, 2, 151936, True, 64),
        "qwen2.5-1.5b": (1536, 28, 8960, 12, 2, 151936, True, 128),
        "qwen2.5-3b": (2048, 36, 11008, 16, 2, 151936, True, 128),
        "qwen2.5-7b": (3584, 28, 18944, 28, 4, 152064, False, 128),
        "qwen2.5-14b": (5120, 48, 13824, 40, 8, 152064, False, 128),
        "qwen2.5-32b": (5120, 64, 27648, 40, 8, 152064, False, 128),
        "qwen2.5-72b": (8192, 80, 29568, 64, 8, 152064, False, 128),
        "qwen3-0.6b": (1024, 28, 3072, 16, 8, 151936, True, 128),
        "qwen3-1.7b": (2048, 28, 6144, 16, 8, 151936, True, 128),
        "qwen3-4b": (2560, 36, 9728, 32, 8, 151936, True, 128),
        "qwen3-8b": (4096, 36, 12288, 32, 8, 151936, False, 128),
        "qwen3-14b": (5120, 40, 17408, 40, 8, 151936, False, 128),
        "qwen3-32b": (5120, 64, 25600, 64, 8, 151936, False, 128),
    }
)
_NAME = re.compile(r"(qwen[\d.]+)-(?:coder-)?([\d.]+b)\b")
_BITS = re.compile(r"\b(\d)-?bit\b")


def known_shape(model: str) -> Architecture | None:
    """Of a model by its name, as in `mlx-community/Qwen2.5-32B-Instruct-8bit`; None for others."""
    name = model.rpartition("/")[2].lower()
    found = _NAME.match(name)
    numbers = _NUMBERS.get(f"{found[1]}-{found[2]}") if found else None
    if found is None or numbers is None:
        return None
    bits = _BITS.search(name)
    shape = dict(zip(_KEYS, numbers, strict=True))
    kind = "qwen3" if found[1].startswith("qwen3") else "qwen2"
    quantization = Quantization(bits=int(bits[1])) if bits else None
    return msgspec.convert(
        {**shape, "model_type": kind, "quantization": quantization}, Architecture
    )


def shape_of(model: str) -> Architecture | None:
    """Of a model folder, or of a model by its name; None where neither tells."""
    file = Path(located_model(model)).expanduser() / "config.json"
    try:
        config: dict[str, Any] = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError):
        return known_shape(model)
    return read_architecture(config)


def is_here(model: str) -> bool:
    """Whether the weights are a folder, or were downloaded from the hub before."""
    if Path(located_model(model)).expanduser().exists():
        return True
    from huggingface_hub import try_to_load_from_cache

    names = ("model.safetensors", "model.safetensors.index.json")
    return any(isinstance(try_to_load_from_cache(model, name), str) for name in names)
