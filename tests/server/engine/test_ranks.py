"""A model on several ranks writes what it writes alone: every kind of adapter, joins, leaves."""

import asyncio
import io
import shutil
from pathlib import Path
from typing import Any, cast

import mlx.nn as nn
import pytest
from rich.console import Console

from tests.server.engine.engine_requests import StartEngine, request
from tests.server.engine.peft_files import write_peft
from tests.server.engine.ranked import Rounds, answers_alone, assert_equal, on_ranks
from verse.base_model import BaseModelError
from verse_server.engine.errors import EngineClosedError, GenerationFailedError
from verse_server.engine.sharding import ModelShard
from verse_server.ranks import LostRank

WEIGHTS = "adapters.safetensors"
LONG = tuple(range(40, 140))
SCHEMA = {
    "kind": "json_schema",
    "text": '{"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"]}',
}
SAMPLED = {"temperature": 0.9, "top_p": 0.8, "seed": 3}
MODELS = ["base", "a", "b", "c", "dora", "peft", "peft-dora", "d", "e", "base"]
ROUNDS: Rounds = [
    [
        *({"model": name, "max_tokens": 6 + 3 * i} for i, name in enumerate(MODELS)),
        {"model": "a:0.5+b:0.3", "num_top_logprobs": 2, "delay": 0.05},
        {"model": "c:0.4", "prompt": LONG, "delay": 0.1},
    ],
    [
        {"model": "d@20", "n": 3, "sampling": SAMPLED, "num_top_logprobs": 0},
        {"model": "c:0.4", "prompt": (*LONG, 7)},
        {"model": "base", "prompt": LONG, "score_prompt": True, "num_prompt_logprobs": 2},
        {"model": "b", "constraint": SCHEMA, "max_tokens": 40},
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
    make_adapter(root / "moving", seed=31, rank=4)
    (make_adapter(root.parent / "next", seed=32, rank=4) / WEIGHTS).rename(
        older / "next.safetensors"
    )
    make_adapter(root / "dora", seed=9, kind="dora", rank=4)
    made = make_adapter(root.parent / "for-peft", seed=10)
    write_peft(made, root / "peft", lora_alpha=24)
    made = make_adapter(root.parent / "for-peft-dora", seed=11, kind="dora")
    write_peft(made, root / "peft-dora", lora_alpha=16)
    return root


def publication(adapters: Path) -> Rounds:
    """A row on an adapter whose file is replaced meanwhile, and one on what is there now."""
    files = [adapters.parent / "older" / "next.safetensors", adapters / "moving" / WEIGHTS]
    replaced = {"model": "moving", "publish": [str(file) for file in files]}
    return [[{"model": "moving", "max_tokens": 60, "ignore_eos": True}, replaced]]


def copied(adapters: Path, folder: Path) -> Path:
    """All that the fixture made, for a run that changes it."""
    return Path(shutil.copytree(adapters.parent, folder)) / adapters.name


def assert_two_ranks_write_the_same(
    model: Path, adapters: Path, folder: Path, **options: Any
) -> None:
    mine, theirs = copied(adapters, folder / "alone"), copied(adapters, folder / "ranks")
    wanted = answers_alone(model, mine, rounds := ROUNDS + publication(mine))
    assert not [answer.error for answer in wanted if answer.error]
    assert [answer.cached > 0 for answer in wanted[-3:]] == [True, False, False]
    old, new = (answer.tokens[0] for answer in wanted[-2:])
    assert old[: len(new)] != new
    found = on_ranks(2, model, theirs, ROUNDS + publication(theirs), **options)
    assert_equal(found, wanted, rounds)


def test_two_ranks_write_what_one_process_writes(
    tiny_base: Path, eight_adapters: Path, tmp_path: Path
) -> None:
    assert_two_ranks_write_the_same(tiny_base, eight_adapters, tmp_path)


@pytest.mark.slow
def test_a_pipeline_of_two_ranks_writes_the_same(
    tiny_base: Path, eight_adapters: Path, tmp_path: Path
) -> None:
    assert_two_ranks_write_the_same(tiny_base, eight_adapters, tmp_path, pipeline=True)


class TwoRanks:
    """A group as far as sizes go."""

    def size(self) -> int:
        return 2

    def rank(self) -> int:
        return 0


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"num_attention_heads": 5, "num_key_value_heads": 5}, "5 attention heads"),
        ({"num_attention_heads": 14, "num_key_value_heads": 7}, "7 key and value heads"),
        ({"text_config": {"intermediate_size": 33}}, "33 hidden units"),
    ],
)
def test_what_two_ranks_cannot_share_is_refused_with_the_numbers(
    config: dict[str, Any], words: str
) -> None:
    shard = ModelShard(cast(Any, TwoRanks()))
    with pytest.raises(BaseModelError, match=f"{words}, which .* 2 ranks"):
        shard.split(nn.Module(), config)


def test_models_that_cannot_be_split_so_are_refused() -> None:
    with pytest.raises(BaseModelError, match="cannot shard models of the type odd"):
        ModelShard(cast(Any, TwoRanks())).split(nn.Module(), {"model_type": "odd"})
    with pytest.raises(BaseModelError, match="cannot pipeline models of the type odd"):
        ModelShard(cast(Any, TwoRanks()), pipeline=True).split(nn.Module(), {"model_type": "odd"})


def test_a_lost_rank_ends_every_answer_with_its_reason(start_engine: StartEngine) -> None:
    """The engine's thread may never come back, so all happens on the thread that noticed."""
    engine = start_engine()
    lost, deaths = LostRank(Console(file=io.StringIO())), list[str]()
    lost.watch(engine)
    engine.on_death(lambda: deaths.append(engine.health().status))
    engine.on_death(lost.end)

    async def read() -> None:
        wanted = request(engine, "a", max_tokens=200, ignore_eos=True)
        async for _ in engine.generate(wanted):
            await asyncio.to_thread(lost.tell, "Rank 1 is gone.")

    with pytest.raises(GenerationFailedError, match="Rank 1 is gone"):
        asyncio.run(read())
    assert deaths == ["dead"]
    with pytest.raises(EngineClosedError):
        asyncio.run(read())
