"""Which prompts are computed together, which are cut, and who waits for whom."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

import mlx.core as mx
import pytest
from mlx_lm.models.cache import RotatingKVCache

from tests.server.engine.engine_requests import sequence
from verse.base_model import BaseModel, load_base_model
from verse_server.engine import prefill
from verse_server.engine.adapters.lora import LoraBank
from verse_server.engine.batch import Batch
from verse_server.engine.forward import RoutedModel
from verse_server.engine.kv_cache import PreallocatedKVCache, PrefixCache
from verse_server.engine.pacing import Pacing
from verse_server.engine.prefill import PrefillQueue, PromptGroup, together
from verse_server.engine.sampling.sampler import StepLogits
from verse_server.engine.sequence import Sequence
from verse_server.engine.types import SamplingParams

GREEDY = SamplingParams(temperature=0)
SYSTEM = tuple(range(40, 80))


@pytest.fixture(scope="module")
def base(tiny_base: Path) -> BaseModel:
    return load_base_model(str(tiny_base))


def group(prompt: Iterable[int], num_done: int = 0) -> PromptGroup:
    found = PromptGroup([sequence(prompt, (), GREEDY)], 8, frozenset())
    found.num_done = found.num_known = num_done
    return found


def test_short_rests_go_together_as_far_as_they_fit() -> None:
    groups = [group(range(30 + n, 60 + n), 24) for n in range(5)]
    assert together(groups, 30) == groups[:3]
    assert together(groups, 1) == groups[:1]


def test_none_is_computed_in_vain_beside_a_much_longer_rest() -> None:
    long, short = group(range(100, 140), 20), group(range(60), 57)
    assert together([long, short], 1000) == [long]
    assert together([short, long], 1000) == [short]


def test_one_whose_whole_prompt_is_shorter_than_the_others_rest_waits() -> None:
    rest, tiny = group(range(30), 24), group([5, 6, 7])
    assert together([rest, tiny], 100) == [rest]


def test_a_beginning_that_is_just_being_computed_is_waited_for_once() -> None:
    first, second, other = (group([*SYSTEM, n]) for n in (1, 2, 3))
    other.rows[0].version = (("digest", 1.0),)
    assert together([first, second, other], 1000) == [first, other]
    assert together([first, second], 1000) == [first, second]


def test_a_long_prompt_is_cut_and_takes_turns_with_short_ones(base: BaseModel) -> None:
    queue = PrefillQueue(base, PrefixCache(0))
    long, shorts = group(range(100, 150)), [group([5, 6, 7, n]) for n in range(4)]
    for one in (long, *shorts):
        queue.add(one)
    turns: list[str] = []
    while (work := queue.next(16)) is not None:
        assert work.width * len(work.groups) <= 16
        turns.append("short" if long not in work.groups else "last" if work.is_last else "piece")
        if not work.is_last:
            long.num_done += work.width
    assert turns[:2] == ["piece", "short"]
    assert sorted(turns) == ["last", "piece", "piece", "piece", "short", "short"]


def run(batch: Batch, rows: list[Sequence]) -> dict[Sequence, list[int]]:
    drawn: dict[Sequence, list[int]] = {row: [] for row in rows}
    while not batch.is_empty:
        for one in batch.step():
            drawn[one.sequence].append(one.token)
    return drawn


def bound_batch(
    base: BaseModel, prefixes: PrefixCache, tokens: int, seconds: float = 60.0
) -> Batch:
    """One in which so few tokens of prompts are computed between two steps."""

    class Tight(Pacing):
        @property
        def prefill_tokens(self) -> int:
            return tokens

        @property
        def left_seconds(self) -> float:
            return seconds

    bank = LoraBank(base.model, base.dtype)
    return Batch(base, bank, 32, prefixes, pacing=Tight())


@pytest.mark.parametrize("tokens", [8, 13, 64])
def test_rows_that_come_in_bit_by_bit_write_what_they_write_alone(
    base: BaseModel, tokens: int
) -> None:
    prompts = [[*SYSTEM, 7, n] for n in range(5)] + [[9, 8], [*range(200, 260)], [3]]
    alone = [run(b := bound_batch(base, PrefixCache(0), 64), [_added(b, p)]) for p in prompts]
    batch = bound_batch(base, PrefixCache(1 << 24), tokens)
    running = _added(batch, [5, 900, 77], 60)
    while not running.tokens[6:]:
        batch.step()
    rows = [_added(batch, prompt) for prompt in prompts]
    together_ = run(batch, [running, *rows])
    for row, expected in zip(rows, alone, strict=True):
        assert together_[row] == next(iter(expected.values()))


def test_running_rows_get_a_token_in_every_pass_while_many_join(base: BaseModel) -> None:
    batch = bound_batch(base, PrefixCache(0), 8)
    running = _added(batch, [5, 900, 77], 200)
    while not running.tokens[6:]:
        batch.step()
    rows = [_added(batch, [*SYSTEM, n]) for n in range(6)]
    waiting, passes = set(rows), 0
    while waiting:
        drawn = {one.sequence for one in batch.step()}
        assert running in drawn
        waiting -= drawn
        passes += 1
    assert 30 < passes < 60  # 41 tokens each, 8 at a time


def test_entries_that_cannot_be_taken_back_serve_as_well(
    base: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def of_both() -> list[list[int]]:
        batch = bound_batch(base, PrefixCache(1 << 24), 16)
        rows = [_added(batch, prompt) for prompt in ([*SYSTEM, 1], [*SYSTEM, 2], [3, 4], [*SYSTEM])]
        return list(run(batch, rows).values())

    expected = of_both()

    def rotating(model: Any) -> list[RotatingKVCache]:
        return [RotatingKVCache(256) for _ in model.layers]

    monkeypatch.setattr(prefill, "make_prompt_cache", rotating)
    assert of_both() == expected


def test_what_one_prompt_has_left_serves_those_who_came_before_it_was_there(
    base: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed: list[int] = []

    def note(_: Pacing, tokens: int, _seconds: float) -> None:
        computed.append(tokens)

    monkeypatch.setattr(Pacing, "note_prefill", note)
    batch = bound_batch(base, PrefixCache(1 << 24), 20)
    running = _added(batch, [5, 900, 77], 60)
    while not running.tokens[6:]:
        batch.step()
    computed.clear()
    rows = [_added(batch, [*SYSTEM, 7]) for _ in range(4)]
    written = run(batch, [running, *rows])
    assert len({tuple(written[row]) for row in rows}) == 1
    assert sum(computed) < 2 * len(SYSTEM)
    assert [row.num_cached for row in rows] == [0, *[len(SYSTEM)] * 3]


def test_many_answers_to_one_prompt_come_in_bit_by_bit(base: BaseModel) -> None:
    batch = bound_batch(base, PrefixCache(0), 24)
    running = _added(batch, [5, 900, 77], 60)
    while not running.tokens[6:]:
        batch.step()
    seeded = SamplingParams(temperature=1, seed=4)
    rows = [sequence([6, 901, 8, 9], (), seeded, index=index) for index in range(12)]
    batch.add(rows, 4)
    joined: list[int] = []
    written: dict[Sequence, list[int]] = {row: [] for row in rows}
    while not all(written.values()):
        drawn = batch.step()
        assert running in {one.sequence for one in drawn}
        joined.append(sum(one.sequence in rows and not written[one.sequence] for one in drawn))
        for one in drawn:
            written.setdefault(one.sequence, []).append(one.token)
    assert max(joined) <= 4
    for row, tokens in run(batch, [running, *rows]).items():
        written[row] += tokens
    alone = bound_batch(base, PrefixCache(0), 2048)
    again = [sequence([6, 901, 8, 9], (), seeded, index=index) for index in range(12)]
    alone.add(again, 4)
    assert list(run(alone, again).values()) == [written[row] for row in rows]
    assert {row.num_cached for row in rows} == {0}


def test_room_for_many_is_made_half_a_layer_at_a_time_while_rows_write_on(
    base: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = bound_batch(base, PrefixCache(0), 64, seconds=0.0)
    running = _added(batch, [5, 900, 77], 60)
    while not running.tokens[6:]:
        batch.step()
    reserve, copied = PreallocatedKVCache.reserve, list[PreallocatedKVCache]()

    def counted(cache: PreallocatedKVCache, num_rows: int) -> None:
        copied.append(cache)
        reserve(cache, num_rows)

    monkeypatch.setattr(PreallocatedKVCache, "reserve", counted)
    rows = [_added(batch, [6, 901, n]) for n in range(7)]
    num_halves = 2 * len(cast(Any, base.model).layers)
    for number in range(num_halves):
        assert {one.sequence for one in batch.step()} == {running}
        assert len(copied) == number + 1
    assert {one.sequence for one in batch.step()} > {running}  # in a pass that has time left
    assert len(copied) == 2 * len(set(copied)) == num_halves
    written = run(batch, [running, *rows])
    assert all(len(written[row]) >= 5 for row in rows)


def test_a_known_prompt_needs_no_forward_of_its_own(
    base: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    prefixes = PrefixCache(1 << 24)
    batch = bound_batch(base, prefixes, 64)
    (alone,) = run(batch, [_added(batch, [*SYSTEM, 1])]).values()
    running = _added(batch, [5, 900, 77], 60)
    while not running.tokens[6:]:
        batch.step()
    forward, widths = RoutedModel.forward, list[int]()

    def counted(model: RoutedModel, tokens: mx.array, cache: list[Any]) -> StepLogits:
        widths.append(tokens.shape[1])
        return forward(model, tokens, cache)

    monkeypatch.setattr(RoutedModel, "forward", counted)
    joining = [_added(batch, [*SYSTEM, n]) for n in (1, 2, 3)]
    assert {one.sequence for one in batch.step()} == {running}
    assert {one.sequence for one in batch.step()} == {running, *joining}
    assert widths == [1, 1]
    assert all(row.num_cached == len(SYSTEM) for row in joining)
    assert run(batch, [running, *joining])[joining[0]] == alone[1:]


def test_known_prompts_take_turns_with_others_and_come_in_bit_by_bit(base: BaseModel) -> None:
    prefixes = PrefixCache(1 << 24)
    batch = bound_batch(base, prefixes, 64)
    run(batch, [_added(batch, [*SYSTEM, 1])])
    queue = PrefillQueue(base, prefixes)
    rows = [sequence([*SYSTEM, 8], (), GREEDY) for _ in range(3)]
    others = [group([5, 6, 7, n]) for n in range(2)]
    for one in (PromptGroup(rows, 8, frozenset()), group([*SYSTEM, 9]), *others):
        queue.add(one)
    assert [len(one.rows) for one in queue.take_known(2)] == [2]
    assert not queue.take_known(9)
    assert queue.next(4, but_known=True) == ([others[0]], 4, True)
    assert [len(one.rows) for one in queue.take_known(9)] == [1, 1]
    assert not queue.take_known(9)
    assert queue.next(4, but_known=True) == ([others[1]], 4, True)
    assert queue.next(4, but_known=True) is None


def _added(batch: Batch, prompt: list[int], max_tokens: int = 6) -> Sequence:
    row = sequence(prompt, (), GREEDY)
    batch.add([row], max_tokens)
    return row


def test_prompts_of_many_lengths_begin_in_one_pass_but_for_a_much_longer_one(
    base: BaseModel,
) -> None:
    batch = bound_batch(base, PrefixCache(0), 8)
    rows = [_added(batch, [*range(100, 140 + n)]) for n in (4, 0, 1, 3, 0, 2)]
    long = _added(batch, [*range(300, 400)])
    assert {one.sequence for one in batch.step()} == {*rows}
    together_ = run(batch, [*rows, long])
    for row in (*rows, long):
        (alone,) = run(
            b := bound_batch(base, PrefixCache(0), 8), [_added(b, [*row.prompt])]
        ).values()
        assert together_[row] == alone[-len(together_[row]) :]
