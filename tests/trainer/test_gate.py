"""The gate of a block outside of the graph, against the one that mlx computes in it."""

from typing import Any, cast

import mlx.core as mx
import numpy as np
import pytest

from verse_trainer.gate import Gated, HostGates, gated, gated_at_once

ROWS, WIDTH = 37, 5000  # more than is worked on at a time


@pytest.fixture
def inputs() -> tuple[mx.array, mx.array, mx.array]:
    """What the gate's product, its other factor and the weights behind it may be."""
    mx.random.seed(3)
    gate = mx.random.normal((ROWS, WIDTH)) * 8
    gate[0, :4] = mx.array([-1e4, -88.0, 0.0, 1e4])
    return gate, mx.random.normal((ROWS, WIDTH)), mx.random.normal((ROWS, WIDTH))


def assert_near(found: mx.array, expected: mx.array) -> None:
    np.testing.assert_allclose(np.array(found), np.array(expected), rtol=3e-6, atol=1e-30)


def test_computed_at_once_it_is_what_mlx_computes(
    inputs: tuple[mx.array, mx.array, mx.array],
) -> None:
    gate, up, _ = inputs
    assert_near(gated_at_once(gate, up), gate * mx.sigmoid(gate) * up)


def test_gradients_through_it_are_those_of_the_graph(
    inputs: tuple[mx.array, mx.array, mx.array],
) -> None:
    gate, up, weights = inputs
    gates = HostGates()

    def loss(way: Gated) -> Gated:
        # The second gate reads what the first has computed.
        return lambda gate, up: (way(way(gate * 0.5, up), up) * weights).sum()

    differentiate = cast(Any, mx).value_and_grad
    value, slopes = differentiate(loss(gates), argnums=(0, 1))(gate, up)
    gates.compute()
    expected, their_slopes = differentiate(loss(gated), argnums=(0, 1))(gate, up)
    assert value.item() == pytest.approx(expected.item(), rel=1e-5)
    for found, other in zip(slopes, their_slopes, strict=True):
        np.testing.assert_allclose(np.array(found), np.array(other), rtol=1e-4, atol=1e-5)


def test_half_precision_stays_in_the_graph() -> None:
    gate, up = mx.array([[1.0, -2.0]], mx.bfloat16), mx.array([[3.0, 0.5]], mx.bfloat16)
    expected = gated(gate, up)
    for found in (gated_at_once(gate, up), HostGates()(gate, up)):
        assert found.dtype == mx.bfloat16
        assert mx.array_equal(found, expected).item()


def test_what_a_gate_has_read_is_let_go_when_it_is_computed() -> None:
    """A step would keep two more arrays of the widest kind for each layer."""
    gates, states, num_layers = HostGates(), mx.ones((64, 1024)), 20
    for _ in range(num_layers):
        states = gates(states * 0.5, states * 0.25)
    before = mx.get_active_memory()  # the rooms are there
    mx.reset_peak_memory()
    gates.compute()
    mx.eval(states)
    assert mx.get_peak_memory() - before < num_layers / 2 * states.nbytes
