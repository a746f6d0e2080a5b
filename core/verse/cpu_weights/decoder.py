"""A decoder layer on the host: mlx keeps the keys and values, numpy and numkong do the rest.

mlx's softmax takes 40 ns for a number on a CPU and its rotation of positions a tenth of a
millisecond a layer; numpy has vector instructions for both. Each row is computed by itself, and
what mlx is to keep is computed once for all layers. The modules an adapter may change stay where
they were in the tree, so that whoever replaces one is found here.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, cast

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx_lm.models.cache import KVCache

from verse.cpu_weights.layers import HostLinear, HostNorm, host_array, products
from verse.cpu_weights.packed import Host
from verse.cpu_weights.packed_mlp import HostSwiGLU, PackedMlp
from verse.cpu_weights.partial_forward import PartialForward
from verse.cpu_weights.threads import Piece, Threads

_SCORES = 4 << 20
"""Numbers of one piece of a prompt's scores."""
_COLUMNS_ALONE = 384
"""Of all rows together, when each has one token: fewer are not worth handing over."""
_FORBIDDEN = np.float32(-1e30)
"""Added to scores. Finite: a row of padding may look at nothing, and must not become NaN."""


class Rotation:
    """RoPE: pairs of numbers turned by an angle that grows with the position."""

    def __init__(self, rope: Any) -> None:
        """Take over mlx's; what it is if numpy knows it, and otherwise mlx does it."""
        self._rope = rope
        self._frequencies: Host | None = None
        self._of: tuple[object, ...] = (id(self),)
        if type(rope) is nn.RoPE and not rope.traditional:
            pairs = np.arange(0, rope.dims, 2, dtype=np.float64) / rope.dims
            self._frequencies = (rope.scale * rope.base**-pairs).astype(np.float32)
            self._of = rope.scale, rope.base, rope.dims

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Rotation) and self._of == other._of

    def __hash__(self) -> int:
        return hash(self._of)

    def angles(self, offset: Any, num_tokens: int) -> tuple[Host, Host] | None:
        """(rows or 1, tokens, 1, pairs) cosines and sines; None where mlx turns.

        Args:
            offset: The position of the first token: one number, or one for each row.
            num_tokens: Of each row.
        """
        if self._frequencies is None:
            return None
        first = np.array(offset).reshape(-1, 1)
        positions = (first + np.arange(num_tokens)).astype(np.float32)
        angles = positions[:, :, None, None] * self._frequencies
        return np.cos(angles), np.sin(angles)

    def turn(self, x: Host, angles: tuple[Host, Host] | None, offset: Any) -> Host:
        """(batch, tokens, heads, dims), in place where numpy does it."""
        if angles is None:
            turned = self._rope(mx.array(x).swapaxes(1, 2), offset=offset).swapaxes(1, 2)
            return cast(Host, np.array(turned))
        cos, sin = angles
        half = cos.shape[-1]
        first, second = x[..., :half], x[..., half : 2 * half]
        turned = first * sin + second * cos
        first *= cos
        first -= second * sin
        second[...] = turned
        return x


KeysValues = tuple[Host, Host]
"""(batch, key heads, columns, dims) each; several heads share one."""


def attend(
    queries: Host,
    known: KeysValues | None,
    new: KeysValues,
    scale: float,
    added: Host | None,
    threads: Threads,
) -> Host:
    """Softmax(queries @ keys * scale + added) @ values.

    Args:
        queries: (batch, tokens, heads, dims).
        known: Keys and values of the tokens before, where they are kept.
        new: Of these tokens; their columns come behind the known ones.
        scale: Of the scores.
        added: From `added_by`.
        threads: Who does it.

    Returns:
        (batch, tokens, heads * dims).
    """
    num_rows, num_tokens, num_heads, _ = queries.shape
    out = np.empty((num_rows, num_tokens, num_heads, new[1].shape[-1]), np.float32)
    parts = (new,) if known is None else (known, new)
    pieces: list[Piece] = []
    num_columns = sum(keys.shape[2] for keys, _ in parts)
    for rows, tokens in _parts(queries.shape, num_columns, threads.num_threads):
        of_part = None if added is None else _of_part(added, rows, tokens)

        def piece(rows: slice = rows, tokens: slice = tokens, added: Host | None = of_part) -> None:
            of_rows = [(keys[rows], values[rows]) for keys, values in parts]
            if new[0].shape[2] == 1 and known is not None:
                out[rows] = _attended_once(queries[rows], of_rows[0], of_rows[1], scale, added)
            else:
                out[rows, tokens] = _attended(queries[rows, tokens], of_rows, scale, added)

        pieces.append(piece)
    threads.run(pieces)
    return out.reshape(num_rows, num_tokens, -1)


def _parts(shape: Sequence[int], num_columns: int, num_threads: int) -> list[tuple[slice, slice]]:
    """Rows of the batch and tokens of a prompt that are computed at once."""
    num_rows, num_tokens, num_heads, _ = shape
    if num_tokens == 1:
        is_little = num_rows * num_columns < _COLUMNS_ALONE
        each = num_rows if is_little else -(-num_rows // num_threads)
        return [(slice(row, row + each), slice(None)) for row in range(0, num_rows, each)]
    each = max(1, _SCORES // (num_heads * num_columns))
    starts = range(0, num_tokens, each)
    return [(slice(r, r + 1), slice(t, t + each)) for r in range(num_rows) for t in starts]


def added_by(mask: Any, num_tokens: int, num_columns: int) -> Host | None:
    """What a mask of mlx-lm adds to scores.

    Args:
        mask: None, "causal", or an array, of bool or to be added.
        num_tokens: Of each row.
        num_columns: All keys, these tokens' included.

    Returns:
        (rows or 1, 1 or heads, tokens or 1, columns).
    """
    if mask is None:
        return None
    if isinstance(mask, str):
        positions = np.arange(num_columns - num_tokens, num_columns)
        allowed = np.arange(num_columns) <= positions[:, None]
    else:
        allowed = cast(Any, np.array(mask))
        if allowed.dtype != np.bool_:
            allowed = allowed.astype(np.float32)
    if allowed.dtype == np.bool_:
        allowed = np.where(allowed, np.float32(0), _FORBIDDEN)
    return cast(Host, allowed.reshape((1,) * (4 - allowed.ndim) + allowed.shape))


def _of_part(added: Host, rows: slice, tokens: slice) -> Host:
    added = added if added.shape[0] == 1 else added[rows]
    return added if added.shape[2] == 1 else added[:, :, tokens]


def _attended(q: Host, parts: list[KeysValues], scale: float, added: Host | None) -> Host:
    num_rows, num_tokens, num_heads, dims = q.shape
    num_shared = parts[0][0].shape[1]
    each = num_heads // num_shared
    # (rows, key heads, heads of each, tokens, dims), and the two before the last as one.
    by_head = q.reshape(num_rows, num_tokens, num_shared, each, dims).transpose(0, 2, 3, 1, 4)
    flat = np.ascontiguousarray(by_head).reshape(num_rows, num_shared, each * num_tokens, dims)
    flat *= np.float32(scale)
    columns = np.cumsum([0, *(keys.shape[2] for keys, _ in parts)])
    spans = [slice(first, last) for first, last in pairwise(columns)]
    scores = np.empty((*flat.shape[:3], columns[-1]), np.float32)
    for (keys, _), span in zip(parts, spans, strict=True):
        np.matmul(flat, keys.swapaxes(-1, -2), out=scores[..., span])
    if added is not None:
        shaped = scores.reshape(num_rows, num_shared, each, num_tokens, -1)
        if added.shape[1] == num_heads:
            shaped += added.reshape(added.shape[0], num_shared, each, *added.shape[2:])
        else:
            shaped += added[:, :, None]
    scores -= scores.max(axis=-1, keepdims=True)
    np.exp(scores, out=scores)
    total = scores.sum(axis=-1, keepdims=True)
    out = np.matmul(scores[..., spans[0]], parts[0][1])
    for (_, values), span in zip(parts[1:], spans[1:], strict=True):
        out += np.matmul(scores[..., span], values)
    out /= total
    shaped_out = out.reshape(num_rows, num_shared, each, num_tokens, -1)
    return shaped_out.transpose(0, 3, 1, 2, 4).reshape(num_rows, num_tokens, num_heads, -1)


def _attended_once(
    q: Host, known: KeysValues, new: KeysValues, scale: float, added: Host | None
) -> Host:
    """The same for one token of each row, whose own column is no product of matrices."""
    num_rows, _, num_heads, dims = q.shape
    keys, values = known
    num_shared, num_known = keys.shape[1:3]
    grouped = q.reshape(num_rows, num_shared, -1, dims) * np.float32(scale)
    scores = np.empty((*grouped.shape[:3], num_known + 1), np.float32)
    np.matmul(grouped, keys.swapaxes(-1, -2), out=scores[..., :num_known])
    np.einsum("rsed,rsd->rse", grouped, new[0][:, :, 0], out=scores[..., num_known])
    if added is not None:
        by_key_head = num_shared if added.shape[1] == num_heads else 1
        scores += added.reshape(added.shape[0], by_key_head, -1, added.shape[3])
    scores -= scores.max(axis=-1, keepdims=True)
    np.exp(scores, out=scores)
    out = np.matmul(scores[..., :num_known], values)
    out += scores[..., num_known:] * new[1]
    out /= scores.sum(axis=-1, keepdims=True)
    return out.reshape(num_rows, 1, num_heads, -1)


def known_columns(cache: Any) -> KeysValues | None:
    """What a cache holds, in the memory it is in: nothing is computed, and nothing copied.

    The views must be gone before the cache is next written, or mlx copies all of it.
    """
    if cache.keys is None:
        return None
    rows, columns = slice(None), slice(0, cache.offset)
    if hasattr(cache, "used"):
        rows, columns = cache.used
    if columns.stop == columns.start:
        return None
    return host_array(cache.keys)[rows, :, columns], host_array(cache.values)[rows, :, columns]


class Forward:
    """What the layers share while a forward runs."""

    def __init__(self, threads: Threads) -> None:
        self.threads = threads
        self.partial = PartialForward()
        """What is different about the next one; the one after is whole again."""
        self.later: list[Any] = []
        """Of mlx, to be computed when all layers have run: one wait instead of one a layer."""
        self._mask: tuple[Any, int, int] | None = None
        self._added: Host | None = None
        self._angles: dict[tuple[Rotation, int], tuple[Host, Host] | None] = {}

    def begin(self) -> None:
        """The first layer is about to run."""
        self.later, self._mask = [], None
        self._angles.clear()

    def angles(self, rotation: Rotation, offset: Any, num_tokens: int) -> tuple[Host, Host] | None:
        """See `Rotation`; rows are at the same positions in every layer."""
        key = rotation, num_tokens
        if key not in self._angles:
            self._angles[key] = rotation.angles(offset, num_tokens)
        return self._angles[key]

    def added(self, mask: Any, num_tokens: int, num_columns: int) -> Host | None:
        """See `added_by`; every layer has the same."""
        asked = mask, num_tokens, num_columns
        if self._mask is None or self._mask[0] is not mask or self._mask[1:] != asked[1:]:
            self._mask, self._added = asked, added_by(mask, num_tokens, num_columns)
        return self._added

    def finish(self) -> None:
        """All layers have run."""
        self.partial = PartialForward()
        later, self.later = self.later, []
        mx.eval(later)  # pyright: ignore[reportUnknownMemberType]


class HostAttention(nn.Module):
    """Stands in for the attention of Qwen2, Qwen3, Llama and those built like them."""

    def __init__(self, attention: Any, threads: Threads, forward: Forward) -> None:
        super().__init__()
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            self[name] = attention[name]
        norms = (attention.get(name) for name in ("q_norm", "k_norm"))
        self._q_norm, self._k_norm = (None if norm is None else HostNorm(norm) for norm in norms)
        self._rotation = Rotation(attention.rope)
        self._num_heads, self._num_shared = int(attention.n_heads), int(attention.n_kv_heads)
        self._scale = float(attention.scale)
        self._threads = threads
        self._forward = forward

    def __call__(self, x: Host, mask: Any, cache: Any, *, is_last_needed: bool = False) -> Host:
        """(batch, tokens, dims) -> (batch, tokens, dims), or the last token's alone."""
        linears = [cast(HostLinear, self[name]) for name in ("q_proj", "k_proj", "v_proj")]
        q, k, v = products(linears, x)
        batch, num_tokens, _ = x.shape
        num_heads, num_shared = self._num_heads, self._num_shared
        q = _normed(self._q_norm, q.reshape(batch, num_tokens, num_heads, -1))
        k = _normed(self._k_norm, k.reshape(batch, num_tokens, num_shared, -1))
        offset = 0 if cache is None else cache.offset
        angles = self._forward.angles(self._rotation, offset, num_tokens)
        q, k = (self._rotation.turn(part, angles, offset) for part in (q, k))
        v = v.reshape(batch, num_tokens, num_shared, -1)
        new = k.swapaxes(1, 2), v.swapaxes(1, 2)
        known, new = self._kept(cache, new)
        num_columns = new[0].shape[2] + (0 if known is None else known[0].shape[2])
        added = self._forward.added(mask, num_tokens, num_columns)
        if is_last_needed:
            q, added = q[:, -1:], None if added is None else added[:, :, -1:]
        out = attend(q, known, new, self._scale, added, self._threads)
        return products([cast(HostLinear, self["o_proj"])], out)[0]

    def _kept(self, cache: Any, new: KeysValues) -> tuple[KeysValues | None, KeysValues]:
        """Append to what is kept; the known ones and the new ones, as numpy sees them."""
        if cache is None:
            return None, new
        untyped: Any = cache  # what `isinstance` makes of it has no types
        is_plain = isinstance(cache, KVCache) or hasattr(cache, "used")
        known = known_columns(cache) if is_plain else None
        fetched = cast(list[mx.array], untyped.update_and_fetch(*map(mx.array, new)))
        self._forward.later += (untyped.keys, untyped.values, untyped.offset) if is_plain else ()
        if is_plain:
            return known, new
        mx.eval(*fetched)  # pyright: ignore[reportUnknownMemberType]
        return None, cast(KeysValues, tuple(map(host_array, fetched)))


def _normed(norm: HostNorm | None, x: Host) -> Host:
    return x if norm is None else norm(x)


class HostDecoderLayer(nn.Module):
    """Stands in for one layer of the model."""

    def __init__(
        self,
        layer: Any,
        threads: Threads,
        forward: Forward,
        mlp: PackedMlp | None = None,
        *,
        index: int,
        is_last: bool,
    ) -> None:
        super().__init__()
        self._forward = forward
        self._index, self._is_last = index, is_last
        self.use_sliding = bool(getattr(layer, "use_sliding", False))  # Llama asks its layers
        self.self_attn = HostAttention(layer.self_attn, threads, forward)
        norm = HostNorm(layer.post_attention_layernorm)
        self.mlp = HostSwiGLU(layer.mlp, norm, threads, mlp)
        self.input_layernorm = HostNorm(layer.input_layernorm)

    def __call__(self, x: Any, mask: Any = None, cache: Any = None) -> Host:
        """(batch, tokens, dims) -> the same on the host."""
        if self._index == 0:
            self._forward.begin()
        partial, hidden = self._forward.partial, host_array(x)
        if partial.leaves_out(self._index):
            return hidden
        hidden, mask = partial.into(self._index, hidden, mask, cache)
        is_last_needed = self._is_last and partial.is_last_needed
        normed = self.input_layernorm(hidden)
        attended = self.self_attn(normed, mask, cache, is_last_needed=is_last_needed)
        hidden = (hidden[:, -1:] if is_last_needed else hidden) + attended
        hidden += self.mlp(hidden)
        if self._is_last:
            self._forward.finish()
        return hidden


def forward_of(model: Any) -> Forward:
    """What the layers of a packed model share."""
    return cast(Forward, model.model.layers[0]._forward)
