"""Packed weights on a machine that has other things to do."""

import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx_lm.models import qwen2
from mlx_lm.models.cache import make_prompt_cache

from verse.cpu_weights.packed import PackedKind
from verse.cpu_weights.packing import pack_model
from verse.cpu_weights.threads import Threads, num_cores

ROWS, STEPS = 8, 40
SHAPE: dict[str, Any] = {  # layers of Qwen2.5-0.5B
    "model_type": "qwen2",
    "hidden_size": 896,
    "num_hidden_layers": 4,
    "intermediate_size": 4864,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-6,
    "vocab_size": 1000,
    "tie_word_embeddings": True,
}


@contextmanager
def busy_loop() -> Generator[None]:
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def steps_per_second(model: Any) -> float:
    cache = make_prompt_cache(model)
    tokens = mx.zeros((ROWS, 1), mx.int32)
    model(tokens, cache=cache)[:, -1]
    begun = time.perf_counter()
    for _ in range(STEPS):
        model(tokens, cache=cache)[:, -1]
    return STEPS / (time.perf_counter() - begun)


@pytest.mark.perf
@pytest.mark.parametrize("kind", ["bf16", "int8"])
def test_beside_two_busy_loops_it_keeps_two_fifths_of_its_speed(
    kind: PackedKind, tmp_path: Path
) -> None:
    model: Any = qwen2.Model(qwen2.ModelArgs.from_dict(SHAPE))
    pack_model(model, tmp_path, kind, Threads(num_cores()))
    quiet = steps_per_second(model)
    with ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(busy_loop())
        beside = steps_per_second(model)
    sys.stdout.write(f"{kind}: {quiet:.0f} steps a second, {beside:.0f} beside two busy loops\n")
    assert beside >= 0.4 * quiet
