"""verse-tiny with an adapter, as transformers and PEFT run it, and as mlx-lm does."""

from pathlib import Path
from typing import Any

import numpy as np

from tests.trainer.adapters.conftest import VERSE_TINY

TOKENS = [1, 300, 4000, 77, 2, 900]


def peft_logits(adapter: Path | None) -> Any:
    import torch  # pyright: ignore[reportMissingImports]
    from peft import PeftModel  # pyright: ignore[reportMissingImports]
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(VERSE_TINY, dtype=torch.float32)
    if adapter is not None:
        model = PeftModel.from_pretrained(model, adapter)
    with torch.no_grad():
        return model(torch.tensor([TOKENS])).logits.numpy()


def mlx_logits(adapter: Path) -> Any:
    import mlx.core as mx
    from mlx_lm import load
    from mlx_lm.utils import load_adapters

    model: Any = load(str(VERSE_TINY))[0]
    model.set_dtype(mx.float32)
    model = load_adapters(model, str(adapter))
    return np.array(model(mx.array([TOKENS])))
