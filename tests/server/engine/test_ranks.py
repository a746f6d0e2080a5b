"""A model on several ranks writes what it writes alone: every kind of adapter, joins, leaves."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.server.engine.conftest import build_base
from tests.server.engine.peft_files import write_peft
from tests.server.engine.ranked import Answer, answers, on_ranks
from verse_server.config import EngineConfig
from verse_server.engine.engine import MlxEngine

LONG = tuple(range(40, 140))
SCHEMA = {"schema": '{"type": "object", "properties": {"a": {"type": "boolean"}}}'}
SAMPLED = {"temperature": 0.9, "top_p": 0.8, "seed": 3}
MODELS = ["base", "a", "b", "c", "dora", "peft", "peft-dora", "d", "e", "base"]
ROUNDS: list[list[dict[str, Any]]] = [
    [
        *({"model": name, "max_tokens": 6 + 3 * i} for i, name in enumerate(MODELS)),
        {"model": "a:0.5+b:0.3", "num_top_logprobs": 2, "delay": 0.05},
        {"model": "c:0.4", "prompt": LONG, "delay": 0.1},
    ],
    [
        {"model": "d@20", "n": 3, "sampling": SAMPLED, "num_top_logprobs": 0},
        {"model": "c:0.4", "prompt": (*LONG, 7)},
        {"model": "base", "prompt": LONG, "score_prompt": True, "num_prompt_logprobs": 2},
    ],
    [{"model": "base", "prompt": (*LONG[:-1], 9)}],
]


@pytest.fixture(scope="module")
def eight_adapters(make_adapter: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("ranks") / "adapters"
    for seed, name in enumerate("abcde"):
        make_adapter(root / name, seed=seed, rank=4 + 4 * seed)
    older = make_adapter(root.parent / "older", seed=30, rank=16)
    checkpoint = older / "adapters.safetensors"
    checkpoint.rename(root / "d" / "0000020_adapters.safetensors")
    make_adapter(root / "dora", seed=9, kind="dora", rank=4)
    made = make_adapter(root.parent / "for-peft", seed=10)
    write_peft(made, root / "peft", lora_alpha=24)
    made = make_adapter(root.parent / "for-peft-dora", seed=11, kind="dora")
    write_peft(made, root / "peft-dora", lora_alpha=16)
    return root


def alone(model: Path, adapters: Path) -> list[Answer]:
    engine = MlxEngine.start(EngineConfig(model=str(model), adapters=adapters))
    try:
        return asyncio.run(answers(engine, ROUNDS))
    finally:
        engine.close()


def assert_equal(found: list[Answer], wanted: list[Answer]) -> None:
    asked = [request for requests in ROUNDS for request in requests]
    for got, expected, request in zip(found, wanted, asked, strict=True):
        assert got.tokens == expected.tokens, request
        for mine, theirs in zip(got.logprobs, expected.logprobs, strict=True):
            assert mine == pytest.approx(theirs, abs=1e-4), request
        assert got.scored == pytest.approx(expected.scored, abs=1e-4), request
        assert (got.cached, got.error) == (expected.cached, expected.error), request


def test_two_ranks_write_what_one_process_writes(tiny_base: Path, eight_adapters: Path) -> None:
    wanted = alone(tiny_base, eight_adapters)
    assert not [answer.error for answer in wanted if answer.error]
    assert wanted[-1].cached  # a prompt that was scored before
    assert_equal(on_ranks(2, tiny_base, eight_adapters, ROUNDS), wanted)


@pytest.mark.slow
def test_a_pipeline_of_two_ranks_writes_the_same(tiny_base: Path, eight_adapters: Path) -> None:
    wanted = alone(tiny_base, eight_adapters)
    assert_equal(on_ranks(2, tiny_base, eight_adapters, ROUNDS, pipeline=True), wanted)


@pytest.mark.slow
def test_four_ranks_write_the_same(tmp_path: Path, eight_adapters: Path) -> None:
    base = build_base(tmp_path / "tiny", seed=3, num_attention_heads=8, num_key_value_heads=8)
    assert_equal(on_ranks(4, base, eight_adapters, ROUNDS), alone(base, eight_adapters))
