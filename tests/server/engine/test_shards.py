"""An adapter's parts, cut by hand as the ranks cut them, add up to the whole; without any rank."""

import mlx.core as mx
import mlx.nn as nn
import pytest

from verse_server.engine.adapters.shards import Part, Split
from verse_server.engine.adapters.weights import (
    Factors,
    dora_update,
    module_update,
    plain_square,
    plain_update,
)
from verse_server.engine.followers import (
    Add,
    Begin,
    DrawnTokens,
    FollowingSampler,
    Load,
    Tensor,
    decode_plan,
    encode_plan,
)

IN, OUT, RANK, RANKS = 12, 8, 3, 2


def linear(seed: int) -> nn.Linear:
    mx.random.seed(seed)
    return nn.Linear(IN, OUT)


def factors(*, dora: bool) -> Factors:
    mx.random.seed(7)
    a, b = mx.random.normal((RANK, IN)), mx.random.normal((RANK, OUT))
    return Factors(a, b, mx.random.uniform(0.5, 2.0, (OUT,)) if dora else None)


def part_of(whole: nn.Linear, split: Split, rank: int) -> nn.Linear:
    """As mlx cuts it."""
    mine = nn.Linear(IN, OUT)
    axis = 0 if split == "outputs" else 1
    weight = mx.split(whole.weight, RANKS, axis=axis)[rank]
    bias = mx.split(whole.bias, RANKS)[rank] if split == "outputs" else whole.bias
    mine.update({"weight": weight, "bias": bias})
    return mine


def changed(x: mx.array, y: mx.array, update: object, *, with_shift: bool = True) -> mx.array:
    a, b = update.a, update.b  # type: ignore[attr-defined]
    gain, shift = update.gain, update.shift  # type: ignore[attr-defined]
    y = y if gain is None else y * gain
    y = y if shift is None or not with_shift else y + shift
    return y + (x @ a.T) @ b


@pytest.mark.parametrize("dora", [False, True])
def test_parts_by_outputs_stand_beside_each_other(*, dora: bool) -> None:
    layer, whole, x = linear(1), factors(dora=dora), mx.random.normal((5, IN))
    wanted = changed(x, layer(x), module_update(whole, layer, mx.float32)[0])
    found: list[mx.array] = []
    for rank in range(RANKS):
        mine, cut = part_of(layer, "outputs", rank), Part("outputs", rank, RANKS).cut(whole)
        found.append(changed(x, mine(x), module_update(cut, mine, mx.float32)[0]))
    assert mx.allclose(mx.concatenate(found, axis=1), wanted, atol=1e-5)


@pytest.mark.parametrize("dora", [False, True])
def test_parts_by_inputs_add_up(*, dora: bool) -> None:
    layer, whole, x = linear(2), factors(dora=dora), mx.random.normal((5, IN))
    wanted = changed(x, layer(x), module_update(whole, layer, mx.float32)[0])
    layers = [part_of(layer, "inputs", rank) for rank in range(RANKS)]
    cuts = [Part("inputs", rank, RANKS).cut(whole) for rank in range(RANKS)]
    squares = [
        mx.sum(mx.square(mine.weight + cut.b.T @ cut.a), axis=1)
        for mine, cut in zip(layers, cuts, strict=True)
    ]
    total = mx.zeros((5, OUT))
    for rank, (mine, cut) in enumerate(zip(layers, cuts, strict=True)):
        if cut.m is None:
            update = plain_update(cut, mx.float32)
        else:  # the other ranks' squares come with a sum over all of them
            others = sum(s for other, s in enumerate(squares) if other != rank)
            update, _ = dora_update(cut, cut.m, mine, mx.float32, lambda own, o=others: own + o)
        columns = mx.split(x, RANKS, axis=1)[rank]
        total = total + changed(columns, columns @ mine.weight.T, update, with_shift=False)
    assert mx.allclose(total + layer.bias, wanted, atol=1e-5)


def test_a_whole_layer_has_whole_factors() -> None:
    whole = factors(dora=True)
    assert Part("whole", 1, 2).cut(whole) is whole
    assert plain_square(whole).item() == pytest.approx(
        mx.sum(mx.square(whole.b.T @ whole.a)).item(), rel=1e-4
    )


def test_messages_arrive_as_they_were_sent() -> None:
    whole = factors(dora=True)
    assert whole.m is not None
    load = Load(3, "x.y", Tensor.of(whole.a), Tensor.of(whole.b), Tensor.of(whole.m))
    add = Add((1, 2), (5, 6), ((0, 0.5),), (("digest", 0.5),), 9, (2,))
    for message in (load, add):
        assert decode_plan(encode_plan(message)) == message
    arrived = decode_plan(encode_plan(load))
    assert isinstance(arrived, Load)
    assert mx.array_equal(arrived.b.array, whole.b)


def test_a_follower_keeps_prefixes_of_as_many_tokens_as_rank_0() -> None:
    begin = Begin(max_rows=8, prefix_bytes=1000, bytes_per_token=100)
    assert begin.prefix_bytes_for(100) == 1000
    assert begin.prefix_bytes_for(200) == 2000  # twice the layers


def test_followed_tokens_are_in_the_array_that_was_handed_out() -> None:
    messages = [DrawnTokens((4, 9))]
    sampler = FollowingSampler(messages.pop)
    tokens = sampler.sample(mx.zeros((2, 16)), mx.array([1, 1]), [None, None])  # type: ignore[list-item]
    following = tokens + 1  # the next forward, built before they are known
    assert sampler.is_late
    sampler.settle()
    assert not sampler.is_late
    assert following.tolist() == [5, 10]
    sampler.settle()  # nothing is waited for twice
