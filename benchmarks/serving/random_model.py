"""A model of Qwen2.5-7B's shape with random weights in 4 bits: does it serve here, and how fast?

    uv run python -m benchmarks.serving.random_model --tokenizer QWEN [--layers 28] [--tokens 16]

Writes the folder as mlx-community would (groups of 64, a file a layer, 4.3 GB) into a temporary
folder, with the tokenizer of another Qwen2.5, serves it, prints the time to the first answer,
tokens per second at 1 and 16 streams and the most memory held, and deletes it. The words are
nonsense; speed and memory are a real model's. About five minutes on two cores; --layers 2 tries it.
"""

import argparse
import asyncio
import json
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import mlx.core as mx
import numpy as np

from benchmarks.client import ask, ask_all
from benchmarks.parties import machine, peak_bytes, served, verse_command
from benchmarks.serving.bench import Request, requests, verse_body

_GROUP, _BITS = 64, 4
_STEP = 0.004
"""Of the 16 values; a weight is then about as large as a trained one."""
_HIDDEN, _INNER, _KEYS, _VOCAB = 3584, 18944, 512, 152064
_CONFIG: dict[str, Any] = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "hidden_size": _HIDDEN,
    "intermediate_size": _INNER,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000.0,
    "max_position_embeddings": 32768,
    "tie_word_embeddings": False,
    "vocab_size": _VOCAB,
    "quantization": {"group_size": _GROUP, "bits": _BITS},
}
_LINEARS = {
    "self_attn.q_proj": (_HIDDEN, _HIDDEN),
    "self_attn.k_proj": (_KEYS, _HIDDEN),
    "self_attn.v_proj": (_KEYS, _HIDDEN),
    "self_attn.o_proj": (_HIDDEN, _HIDDEN),
    "mlp.gate_proj": (_INNER, _HIDDEN),
    "mlp.up_proj": (_INNER, _HIDDEN),
    "mlp.down_proj": (_HIDDEN, _INNER),
}
_STREAMS = (1, 16)


def write_model(folder: Path, tokenizer: Path, num_layers: int) -> None:
    """Write the folder, a layer at a time: never more than one is in memory."""
    random = np.random.default_rng(0)
    for file in tokenizer.glob("*token*"):
        shutil.copy(file, folder)
    config = {**_CONFIG, "num_hidden_layers": num_layers}
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    ends = _quantized(random, "model.embed_tokens", (_VOCAB, _HIDDEN))
    ends |= _quantized(random, "lm_head", (_VOCAB, _HIDDEN))
    ends["model.norm.weight"] = mx.ones((_HIDDEN,), mx.bfloat16)
    mx.save_safetensors(str(folder / "model-ends.safetensors"), ends)
    del ends
    for number in range(num_layers):
        prefix = f"model.layers.{number}."
        layer: dict[str, mx.array] = {}
        for name, shape in _LINEARS.items():
            layer |= _quantized(random, prefix + name, shape)
            if name.endswith(("q_proj", "k_proj", "v_proj")):
                layer[f"{prefix}{name}.bias"] = mx.zeros((shape[0],), mx.bfloat16)
        for name in ("input_layernorm", "post_attention_layernorm"):
            layer[f"{prefix}{name}.weight"] = mx.ones((_HIDDEN,), mx.bfloat16)
        mx.save_safetensors(str(folder / f"model-{number:02d}.safetensors"), layer)


def _quantized(
    random: np.random.Generator, name: str, shape: tuple[int, int]
) -> dict[str, mx.array]:
    rows, columns = shape
    words = random.integers(0, 2**32, (rows, columns * _BITS // 32), np.uint32)
    scales = mx.full((rows, columns // _GROUP), _STEP, mx.bfloat16)
    middle = -_STEP * (2**_BITS - 1) / 2
    biases = mx.full((rows, columns // _GROUP), middle, mx.bfloat16)
    return {f"{name}.weight": mx.array(words), f"{name}.scales": scales, f"{name}.biases": biases}


def measure(folder: Path, tokens: int) -> dict[str, float]:
    """Serve it and ask."""
    figures: dict[str, float] = {}
    with served([*verse_command("serve"), "--model", str(folder)]) as server:
        begun = time.perf_counter()
        asyncio.run(ask(server.port, verse_body(Request("河", None), 1)))
        figures["start, s"] = server.start_seconds + time.perf_counter() - begun
        for streams in _STREAMS:
            of = requests((None,), streams)
            bodies = [verse_body(request, tokens, ignore_eos=True) for request in of]
            begun = time.perf_counter()
            asyncio.run(ask_all(server.port, bodies, streams))
            figures[f"tokens/s @{streams}"] = streams * tokens / (time.perf_counter() - begun)
        figures["peak, GB"] = peak_bytes(server.pid) / 1e9
    return figures


def main(arguments: Sequence[str] | None = None) -> None:
    """Write, serve, print, delete."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.serving.random_model",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("--tokenizer", type=Path, required=True, help="a folder of some Qwen2.5")
    parser.add_argument("--layers", type=int, default=28, help="28 are those of 7B")
    parser.add_argument("--tokens", type=int, default=16, help="of every answer (16)")
    options = parser.parse_args(arguments)
    with TemporaryDirectory(prefix="verse-random-model-") as name:
        write_model(Path(name), options.tokenizer, options.layers)
        figures = measure(Path(name), options.tokens)
    print(machine())
    print(", ".join(f"{key} {value:.2f}" for key, value in figures.items()))


if __name__ == "__main__":
    main()
