"""Base and adapter as one model, which anything that reads mlx-lm's folders can load."""

import shutil
import tempfile
from pathlib import Path
from typing import Any, cast

from verse import openblas

openblas.preload()

import mlx.core as mx  # noqa: E402  OpenBLAS must be there first
import mlx.nn as nn  # noqa: E402
from mlx.utils import tree_unflatten  # noqa: E402
from mlx_lm import utils as mlx_lm_utils  # noqa: E402

from verse_trainer.adapters.exchange import AsMlxFolder  # noqa: E402
from verse_trainer.adapters.names import Choice  # noqa: E402
from verse_trainer.errors import ConversionError  # noqa: E402

_PROMPT = "河水流过我的窗前"
_TOLERANCE = 0.05
"""Of the largest logit: a bfloat16 weight keeps eight bits of an update that is added to it."""
_QUANTIZED_TOLERANCE = 0.5


def fuse_adapter(choice: Choice, model: str, output: Path, *, keep_quantized: bool) -> float:
    """Write a model with the chosen weights added to it.

    Args:
        choice: The adapter, with a strength.
        model: A model folder or Hugging Face id.
        output: A folder that does not exist yet.
        keep_quantized: Quantize the sum as the base was; else a quantized base is written in full.

    Returns:
        How much the logits of a prompt differ from base and adapter apart, relative to the largest.

    Raises:
        ConversionError: the adapter does not fit, or the result is not what it should be.
    """
    if output.exists():
        raise ConversionError(f"{output} exists already; choose another folder.")
    if choice.folder.config.uses_dora and choice.strength != 1:
        raise ConversionError("The update of a DoRA adapter cannot be scaled.")
    base, tokenizer, config = _load(model, choice)
    tokens = mx.array([tokenizer.encode(_PROMPT)])
    apart = _logits(base, tokens)
    fused = _fuse(base, config, keep_quantized=keep_quantized)
    output.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=output.parent, prefix=f".{output.name}."))
    try:
        mlx_lm_utils.save(temporary, model, fused, tokenizer, config, donate_model=False)
        (temporary / "README.md").unlink(missing_ok=True)  # mlx-lm's card names a hub and no base
        written: Any = mlx_lm_utils.load_model(temporary)[0]  # pyright: ignore[reportUnknownMemberType]
        together = _logits(written, tokens)
        difference = _check(apart, together, keep_quantized=keep_quantized)
        temporary.chmod(0o755)
        temporary.rename(output)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return difference


def _load(model: str, choice: Choice) -> tuple[nn.Module, Any, dict[str, Any]]:
    with AsMlxFolder(choice) as folder:
        try:
            base, tokenizer, config = cast(
                tuple[nn.Module, Any, dict[str, Any]],
                mlx_lm_utils.load(model, adapter_path=str(folder), return_config=True),
            )
        except Exception as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ConversionError(
                f"{choice.folder.name} cannot be applied to {model}: {reason}"
            ) from error
    for module in cast(list[Any], base.modules()):
        if hasattr(module, "lora_b"):
            module.scale *= choice.strength
    return base, tokenizer, config


def _fuse(model: nn.Module, config: dict[str, Any], *, keep_quantized: bool) -> nn.Module:
    named = cast(list[tuple[str, Any]], model.named_modules())
    fused = [(n, m.fuse(dequantize=not keep_quantized)) for n, m in named if hasattr(m, "fuse")]
    model.update_modules(tree_unflatten(fused))  # pyright: ignore[reportUnknownMemberType]
    if not keep_quantized:
        model = mlx_lm_utils.dequantize_model(model)
        config.pop("quantization", None)
        config.pop("quantization_config", None)
    return model


def _logits(model: nn.Module, tokens: mx.array) -> mx.array:
    logits = cast(mx.array, model(tokens)).astype(mx.float32)
    mx.eval(logits)  # pyright: ignore[reportUnknownMemberType]
    return logits


def _check(apart: mx.array, together: mx.array, *, keep_quantized: bool) -> float:
    difference = float(mx.abs(apart - together).max() / mx.abs(apart).max())
    tolerance = _QUANTIZED_TOLERANCE if keep_quantized else _TOLERANCE
    if not difference <= tolerance:
        raise ConversionError(
            f"The check failed: the fused model's logits differ by {difference:.1%} from base and "
            "adapter apart; nothing was written."
        )
    return difference
