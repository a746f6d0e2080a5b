"""The models of the presets by their public numbers, and small random ones of the same kind."""

from functools import partial
from typing import Any, cast

from verse import openblas

openblas.preload()

import mlx.core as mx  # noqa: E402
import mlx.nn as nn  # noqa: E402
import mlx.optimizers as optimizers  # noqa: E402
import msgspec  # noqa: E402
import pytest  # noqa: E402
from mlx.utils import tree_flatten  # noqa: E402
from mlx_lm.models import qwen2, qwen3  # noqa: E402
from mlx_lm.tuner.trainer import default_loss, grad_checkpoint  # noqa: E402
from mlx_lm.tuner.utils import linear_to_lora_layers  # noqa: E402

from verse_trainer.config import TrainConfig  # noqa: E402
from verse_trainer.memory import Architecture  # noqa: E402

# From the config.json of Qwen/Qwen2.5-{7,14,32}B-Instruct and Qwen/Qwen3-8B.
ARCHITECTURES = {
    "qwen2.5-7b": Architecture(
        model_type="qwen2",
        hidden_size=3584,
        num_hidden_layers=28,
        intermediate_size=18944,
        num_attention_heads=28,
        num_key_value_heads=4,
        vocab_size=152064,
    ),
    "qwen2.5-14b": Architecture(
        model_type="qwen2",
        hidden_size=5120,
        num_hidden_layers=48,
        intermediate_size=13824,
        num_attention_heads=40,
        num_key_value_heads=8,
        vocab_size=152064,
    ),
    "qwen2.5-32b": Architecture(
        model_type="qwen2",
        hidden_size=5120,
        num_hidden_layers=64,
        intermediate_size=27648,
        num_attention_heads=40,
        num_key_value_heads=8,
        vocab_size=152064,
    ),
    "qwen3-8b": Architecture(
        model_type="qwen3",
        hidden_size=4096,
        num_hidden_layers=36,
        intermediate_size=12288,
        num_attention_heads=32,
        num_key_value_heads=8,
        head_dim=128,
        vocab_size=151936,
    ),
}
_KINDS: dict[str, Any] = {"qwen2": qwen2, "qwen3": qwen3}
_ROPE = {"rms_norm_eps": 1e-6, "rope_theta": 1e4, "max_position_embeddings": 512}


def tiny_config(model_type: str, *, large: bool = False) -> dict[str, Any]:
    """A config.json of the same architecture, scaled down; no two sizes are equal."""
    size = 4 if large else 1
    return {
        "model_type": model_type,
        "hidden_size": 64 * size,
        "num_hidden_layers": 3,
        "intermediate_size": 192 * size,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 64 if model_type == "qwen3" else 16 * size,
        "vocab_size": 512 * size,
        "tie_word_embeddings": False,
        **_ROPE,
    }


def tiny_model(
    model_type: str, bits: int | None, *, large: bool = False
) -> tuple[nn.Module, Architecture]:
    """A random model in bfloat16, quantized if wanted, and its numbers."""
    config = tiny_config(model_type, large=large)
    kind = _KINDS[model_type]
    model = kind.Model(kind.ModelArgs.from_dict(config))
    model.set_dtype(mx.bfloat16)
    if bits is not None:
        nn.quantize(model, 64, bits)
        config["quantization"] = {"bits": bits, "group_size": 64}
    mx.eval(model.parameters())
    return model, msgspec.convert(config, Architecture)


def peak_of_a_step(model: nn.Module, config: TrainConfig, row_tokens: int) -> int:
    """Bytes at the peak of a compiled training step, mlx-lm's own, after a first one.

    With grad_checkpoint the caller must put the class of the blocks right again.
    """
    lora = config.lora_parameters
    model.freeze()
    parameters = {"rank": lora.rank, "scale": lora.scale, "dropout": lora.dropout}
    linear_to_lora_layers(model, config.num_layers, parameters)
    if config.grad_checkpoint:
        grad_checkpoint(cast(Any, model).layers[0])
    optimizer = optimizers.AdamW(1e-4)
    loss_and_gradient = nn.value_and_grad(model, default_loss)
    state = [model.state, optimizer.state, mx.random.state]

    @partial(mx.compile, inputs=state, outputs=state)
    def step(batch: mx.array, lengths: mx.array) -> mx.array:
        (loss, _), gradient = loss_and_gradient(model, batch, lengths)
        optimizer.update(model, gradient)
        return loss

    model.train()
    batch = mx.zeros((config.batch_size, row_tokens + 1), mx.int32)
    lengths = mx.array([[1, row_tokens]] * config.batch_size)
    mx.eval(state, step(batch, lengths))
    mx.clear_cache()
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    mx.eval(state, step(batch, lengths))
    held = sum(array.nbytes for array in arrays_of([model.state, optimizer.state]))
    return mx.get_peak_memory() - before + held


def keep_the_blocks_class(model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gradient checkpointing patches it for the life of the process; this ends with the test."""
    kind: Any = type(cast(Any, model).layers[0])
    monkeypatch.setattr(kind, "__call__", kind.__call__)


def arrays_of(tree: Any) -> list[mx.array]:
    """The arrays anywhere in a tree of parameters or states."""
    leaves = cast(list[tuple[str, Any]], tree_flatten(tree))
    return [leaf for _, leaf in leaves if isinstance(leaf, mx.array)]
