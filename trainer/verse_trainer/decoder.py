"""A model's blocks run one by one over packed rows, as its own forward would run them all.

The blocks are mlx-lm's, with whatever adapters lie in them; what is here is their arithmetic over
rows without padding (`packing.py`). Known are the families of Qwen 2, 2.5 and 3, Llama and
Mistral: attention with rotary positions over all that came before, a gated MLP, both behind an RMS
norm, and a head that is a matrix of its own or the embedding. Others are run whole, by themselves.
"""

from collections.abc import Sequence
from typing import Any, cast

import mlx.core as mx
import mlx.nn as nn

from verse_trainer.gate import Gated, gated
from verse_trainer.packing import Layout

_FAMILIES = frozenset(f"mlx_lm.models.{name}" for name in ("qwen2", "qwen3", "llama"))
_ROPES = frozenset({"RoPE", "Llama3RoPE", "YarnRoPE"})
"""Positions that do not depend on the length of what is read."""
_HEADS_FIRST = (0, 2, 1, 3)
"""Swaps the axes of heads and tokens."""


class Decoder:
    """The parts of a model. They are looked up at each call: what is traced replaces them."""

    def __init__(self, model: nn.Module) -> None:
        """Of a model that `is_known`."""
        self._model = cast(Any, model)

    @property
    def blocks(self) -> list[nn.Module]:
        """In order; those of released layers hold nothing."""
        return cast(list[nn.Module], self._model.model.layers)

    @property
    def embedding(self) -> nn.Module:
        """Token ids to hidden states."""
        return self._model.model.embed_tokens

    @property
    def head(self) -> nn.Module:
        """Hidden states to logits; the embedding where both are one."""
        return self._model.lm_head if "lm_head" in self._model else self.embedding

    def release_embedding(self) -> None:
        """Let it go where it is not the head too."""
        if self.head is not self.embedding:
            self._model.model.embed_tokens = nn.Module()

    def norm(self, states: mx.array) -> mx.array:
        """What the head reads."""
        return self._model.model.norm(states)

    def embed(self, ids: mx.array, dtype: mx.Dtype) -> mx.array:
        """(tokens,) ids to (tokens, hidden)."""
        return cast(Any, self.embedding)(ids).astype(dtype)

    def run(
        self,
        states: mx.array,
        layout: Layout,
        prefix: int,
        blocks: Sequence[nn.Module],
        *,
        checkpoint: bool = False,
        gates: Gated | None = None,
        places: mx.array | None = None,
    ) -> mx.array:
        """Run some blocks over packed rows.

        Args:
            states: (tokens, hidden).
            layout: Where the rows' tokens are.
            prefix: Tokens in front that all rows share.
            blocks: In order.
            checkpoint: Keep each block's input alone, and compute the rest again for gradients.
            gates: Computes the gates of the blocks; None to have them in the graph. Those of
                checkpointed blocks always are.
            places: Of the tokens whose states are asked for; None for all. What the last block
                makes of the others, nothing reads.

        Returns:
            (tokens, hidden), or (places, hidden).
        """
        for block in blocks:
            kept = places if block is blocks[-1] else None
            if checkpoint:
                states = _checkpointed(block, states, layout, prefix, kept)
            else:
                states = _run_block(block, states, layout, prefix, gates or gated, kept)
        return states


def is_known(model: nn.Module) -> bool:
    """Whether the arithmetic of the model's blocks is the one that is here."""
    if type(model).__module__ not in _FAMILIES:
        return False
    blocks = cast(list[Any], cast(Any, model).model.layers)
    return all(
        type(block.self_attn.rope).__name__ in _ROPES and not getattr(block, "use_sliding", False)
        for block in blocks
        if "self_attn" in block
    )


def trains_head(model: nn.Module) -> bool:
    """Whether anything outside the blocks is trained."""
    parts = Decoder(model)
    outside = [parts.embedding, parts.head, cast(Any, model).model.norm]
    return any(bool(cast(Any, part).trainable_parameters()) for part in outside)


def _run_block(
    block: Any,
    states: mx.array,
    layout: Layout,
    prefix: int,
    gates: Gated = gated,
    places: mx.array | None = None,
) -> mx.array:
    mixed = _attend(block.self_attn, block.input_layernorm(states), layout, prefix, places)
    states = (states if places is None else states[places]) + mixed
    mlp, inner = block.mlp, block.post_attention_layernorm(states)
    return states + mlp.down_proj(gates(mlp.gate_proj(inner), mlp.up_proj(inner)))


def _checkpointed(
    block: Any, states: mx.array, layout: Layout, prefix: int, places: mx.array | None
) -> mx.array:
    def run(weights: Any, inputs: mx.array) -> mx.array:
        block.update(weights)
        return _run_block(block, inputs, layout, prefix, places=places)

    # What is trained must be an argument, or it would get no gradient.
    return cast(Any, mx.checkpoint(run))(block.trainable_parameters(), states)


def _attend(
    attention: Any, states: mx.array, layout: Layout, prefix: int, places: mx.array | None
) -> mx.array:
    queries = _heads(attention.q_proj(states), attention.n_heads, attention.get("q_norm"))
    keys = _heads(attention.k_proj(states), attention.n_kv_heads, attention.get("k_norm"))
    values = _heads(attention.v_proj(states), attention.n_kv_heads, None)
    rope, scale, num_rows = attention.rope, attention.scale, layout.gather.shape[0]

    def rows_of(heads: mx.array) -> mx.array:
        return mx.transpose(heads[layout.gather], _HEADS_FIRST)

    row_queries = rope(rows_of(queries), offset=prefix)
    row_keys, row_values = rope(rows_of(keys), offset=prefix), rows_of(values)
    outputs: list[mx.array] = []
    if prefix:
        first = [
            mx.transpose(heads[None, :prefix], _HEADS_FIRST) for heads in (queries, keys, values)
        ]
        first_keys, first_values = rope(first[1]), first[2]
        outputs.append(_attention(rope(first[0]), first_keys, first_values, scale))
        row_keys = mx.concatenate([_repeated(first_keys, num_rows), row_keys], axis=2)
        row_values = mx.concatenate([_repeated(first_values, num_rows), row_values], axis=2)
    outputs.append(_attention(row_queries, row_keys, row_values, scale))
    scatter = layout.scatter if places is None else layout.scatter[places]
    return attention.o_proj(mx.concatenate(outputs)[scatter])


def _heads(projected: mx.array, num_heads: int, norm: Any) -> mx.array:
    """(tokens, heads, dimensions)."""
    heads = mx.reshape(projected, (projected.shape[0], num_heads, -1))
    return heads if norm is None else norm(heads)


def _repeated(heads: mx.array, num_rows: int) -> mx.array:
    return mx.broadcast_to(heads, (num_rows, *heads.shape[1:]))


def _attention(queries: mx.array, keys: mx.array, values: mx.array, scale: float) -> mx.array:
    """(rows * width, heads * dimensions); the last query sees all keys, each before it one less."""
    mask = None if queries.shape[2] == 1 else "causal"
    mixed = mx.fast.scaled_dot_product_attention(queries, keys, values, scale=scale, mask=mask)
    rows, heads, width, size = mixed.shape
    return mx.reshape(mx.transpose(mixed, _HEADS_FIRST), (rows * width, heads * size))
