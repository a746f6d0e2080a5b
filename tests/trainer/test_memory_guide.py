"""docs/memory.md says what the code computes.

`python -m tests.trainer.test_memory_guide` writes its tables.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import msgspec

from verse_trainer.config import TrainConfig
from verse_trainer.memory import Architecture, Quantization, caches_layers, estimate, states_bytes
from verse_trainer.model_shapes import known_shape
from verse_trainer.preflight import ASSUMED_ROW_TOKENS, gigabytes

GUIDE = Path(__file__).parents[2] / "docs" / "memory.md"
MACS = (8, 16, 24, 32, 48, 64, 96, 128, 192)
USABLE = 0.75
MODELS = ("Qwen2.5-7B", "Qwen2.5-14B", "Qwen2.5-32B")
BITS = (None, 8, 4)
SERVED_ROWS, SERVED_TOKENS, SERVER_BYTES = 16, 512, 500_000_000
POEM_TOKENS = 256
BEGIN, END = "<!-- computed: {} -->\n", "<!-- end -->"


def shape(model: str, bits: int | None) -> Architecture:
    found = known_shape(f"{model}-Instruct")
    assert found is not None
    quantization = None if bits is None else Quantization(bits=bits)
    return msgspec.structs.replace(found, quantization=quantization)


def smallest_mac(num_bytes: float) -> str:
    return next((f"{size} GB" for size in MACS if num_bytes <= USABLE * size * 1e9), "none")


def precision(bits: int | None) -> str:
    return "bf16" if bits is None else f"{bits} bits"


def training(num_layers_share: float) -> Iterator[str]:
    yield "| base | | layers trained | peak | smallest Mac | without the cache |"
    yield "|---|---|---|---|---|---|"
    for model in MODELS:
        for bits in BITS:
            architecture = shape(model, bits)
            total = architecture.num_hidden_layers
            num_layers = -1 if num_layers_share == 1 else round(total * num_layers_share)
            config = TrainConfig(batch_size=1, grad_checkpoint=True, num_layers=num_layers)
            has_cache = caches_layers(architecture, config)
            peak = estimate(
                architecture, config, ASSUMED_ROW_TOKENS, has_cache=has_cache
            ).total_bytes
            whole = estimate(architecture, config, ASSUMED_ROW_TOKENS).total_bytes
            trained = f"all {total}" if num_layers < 0 else f"{num_layers} of {total}"
            other = f"{gigabytes(whole)}, {smallest_mac(whole)}" if has_cache else "the same"
            yield (
                f"| {model} | {precision(bits)} | {trained} | {gigabytes(peak)} | "
                f"{smallest_mac(peak)} | {other} |"
            )


def serving() -> Iterator[str]:
    yield "| base | | weights | keys and values | peak | smallest Mac |"
    yield "|---|---|---|---|---|---|"
    for model in MODELS:
        for bits in BITS:
            architecture = shape(model, bits)
            weights = estimate(architecture, TrainConfig(), 1).weights_bytes
            value_size = architecture.projections()["self_attn.v_proj"][1]
            per_token = 2 * 2 * value_size * architecture.num_hidden_layers
            cached = SERVED_ROWS * SERVED_TOKENS * per_token
            peak = weights + cached + SERVER_BYTES
            yield (
                f"| {model} | {precision(bits)} | {gigabytes(weights)} | {gigabytes(cached)} | "
                f"{gigabytes(peak)} | {smallest_mac(peak)} |"
            )


def states() -> Iterator[str]:
    yield "| base | 100 poems | 1,000 poems | 10,000 poems |"
    yield "|---|---|---|---|"
    for model in MODELS:
        sizes = [
            states_bytes(shape(model, None), count * POEM_TOKENS) for count in (100, 1000, 10_000)
        ]
        yield f"| {model} | " + " | ".join(gigabytes(size) for size in sizes) + " |"


TABLES = {
    "a quarter of the layers": lambda: training(0.25),
    "all layers": lambda: training(1),
    "serving": serving,
    "states": states,
}


def filled(text: str) -> str:
    for name, table in TABLES.items():
        begin = BEGIN.format(name)
        pattern = re.escape(begin) + r".*?" + re.escape(END)
        lines = "\n".join(table())
        text, count = re.subn(pattern, f"{begin}{lines}\n{END}", text, flags=re.DOTALL)
        assert count == 1, name
    return text


def test_the_guide_says_what_the_code_computes() -> None:
    text = GUIDE.read_text("utf-8")
    assert filled(text) == text
    assert f"up to {ASSUMED_ROW_TOKENS} tokens" in text
    assert f"{SERVED_ROWS} poems at once of up to {SERVED_TOKENS} tokens" in text
    assert f"{USABLE:.0%} of its memory".replace("%", " %") in text


def test_a_quarter_of_the_layers_needs_about_a_quarter_of_the_weights() -> None:
    architecture = shape("Qwen2.5-32B", 8)
    config = TrainConfig(num_layers=16)
    whole = estimate(architecture, config, 1).weights_bytes
    kept = estimate(architecture, config, 1, has_cache=True).weights_bytes
    assert 0.22 < kept / whole < 0.28


if __name__ == "__main__":
    GUIDE.write_text(filled(GUIDE.read_text("utf-8")), "utf-8")
