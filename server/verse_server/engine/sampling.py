"""Draw the next token of every row in one go, each row by its own parameters.

Order: grammar, bias, penalties, temperature, top_k, top_p, min_p, draw. Tokens that tie with the
last one kept are kept too. Log-probabilities are those of the model, before any of these. `sampler`
says where this draws and where `host_sampling` does. Engine thread only.
"""

from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any

import mlx.core as mx
import msgspec
import numpy as np
from numpy.typing import NDArray

from verse_server.engine.rows import DrawnLogits, NotedLogprobs, Row
from verse_server.engine.types import SamplingParams


def sample(logits: mx.array, inputs: mx.array, rows: Sequence[Row]) -> mx.array:
    """One token for each row.

    Args:
        logits: (batch, vocab), any float type.
        inputs: (batch,) the tokens that gave them. They may still be in flight, which is why the
            rows' own lists do not hold them yet.
        rows: In the batch's order.

    Returns:
        (batch,) token ids.
    """
    drawn = _drawn(shaped(logits, inputs, rows), rows)
    of_drawn = mx.take_along_axis(logits, drawn[:, None], axis=-1)[:, 0]
    mx.async_eval(of_drawn)  # pyright: ignore[reportUnknownMemberType]
    note_drawn(logits, drawn, of_drawn, rows)
    return drawn


def shaped(logits: mx.array, inputs: mx.array, rows: Sequence[Row]) -> mx.array:
    """The logits after grammar, bias and penalties; arguments as of `sample`."""
    if any(row.matcher for row in rows):
        logits = _allowed(logits, inputs, rows)
    params = [row.sampling for row in rows]
    if any(p.logit_bias for p in params):
        logits = _biased(logits, params)
    if any(_has_penalty(p) for p in params):
        logits = _penalized(logits, inputs, rows)
    return logits


def note_drawn(
    logits: mx.array,
    drawn: mx.array,
    of_drawn: mx.array | NDArray[np.float32],
    rows: Sequence[Row],
) -> None:
    """Leave with each row what its report will need.

    Args:
        logits: (batch, vocab), the model's.
        drawn: (batch,) token ids.
        of_drawn: (batch,) their logits.
        rows: In the batch's order.
    """
    drawn_logits = DrawnLogits(of_drawn)
    for position, row in enumerate(rows):
        row.drawn.append((drawn_logits, position))
    _note_logprobs(logits, drawn, rows)


def _drawn(logits: mx.array, rows: Sequence[Row]) -> mx.array:
    params = [row.sampling for row in rows]
    greedy = [p.is_greedy for p in params]
    if all(greedy):
        return mx.argmax(logits, axis=-1)
    logits = logits.astype(mx.float32)
    temperatures = [1.0 if p.is_greedy else p.temperature for p in params]
    tempered = logits / mx.array(temperatures)[:, None]
    drawn = _draw(_restricted(tempered, params), [row.next_key() for row in rows])
    return mx.where(mx.array(greedy), mx.argmax(logits, axis=-1), drawn)


def _note_logprobs(logits: mx.array, drawn: mx.array, rows: Sequence[Row]) -> None:
    """Note the log-probabilities of the rows that asked; nothing is computed for the others."""
    asked = [i for i, row in enumerate(rows) if row.num_top_logprobs is not None]
    if not asked:
        return
    index = mx.array(asked)
    chosen = logits[index].astype(mx.float32)
    logprobs = chosen - mx.logsumexp(chosen, axis=-1, keepdims=True)
    of_drawn = mx.take_along_axis(logprobs, drawn[index][:, None], axis=-1)[:, 0]
    num_top = max(rows[i].num_top_logprobs or 0 for i in asked)
    top_ids = mx.argpartition(-logprobs, num_top, axis=-1)[:, :num_top]
    top = mx.take_along_axis(logprobs, top_ids, axis=-1)
    order = mx.argsort(-top, axis=-1)
    top_ids = mx.take_along_axis(top_ids, order, axis=-1)
    top = mx.take_along_axis(top, order, axis=-1)
    mx.async_eval(of_drawn, top_ids, top)  # pyright: ignore[reportUnknownMemberType]
    for position, i in enumerate(asked):
        rows[i].noted.append(NotedLogprobs(position, of_drawn, top_ids, top))


def _allowed(logits: mx.array, inputs: mx.array, rows: Sequence[Row]) -> mx.array:
    """Minus infinity where a row's grammar allows no token; other rows stay bit for bit."""
    mx.async_eval(logits)  # pyright: ignore[reportUnknownMemberType]
    # The forward runs while the host waits for the tokens before it and moves the grammars on.
    tokens = msgspec.convert(inputs.tolist(), list[int])
    index: list[int] = []
    masks: list[NDArray[np.bool_]] = []
    for i, row in enumerate(rows):
        if row.matcher is not None:
            if row.has_begun:
                row.matcher.take(tokens[i])
            index.append(i)
            masks.append(row.matcher.allowed())
    allowed: Any = np.stack(masks)  # mlx.core.array takes it; its stubs do not say so
    which = mx.array(index)
    logits = mx.array(logits)  # assigning to the caller's own would change what it holds
    logits[which] = mx.where(mx.array(allowed), logits[which], -mx.inf)
    return logits


def _biased(logits: mx.array, params: Sequence[SamplingParams]) -> mx.array:
    """Add each row's bias to the tokens it names."""
    vocab = logits.shape[-1]
    # One more column takes the writes of the padding.
    logits = mx.pad(logits.astype(mx.float32), [(0, 0), (0, 1)])
    ids = _padded([list(p.logit_bias) for p in params], vocab)
    width = ids.shape[1]
    biases = [[*p.logit_bias.values()] + [0.0] * (width - len(p.logit_bias)) for p in params]
    raised = mx.take_along_axis(logits, ids, axis=1) + mx.array(biases)
    return mx.put_along_axis(logits, ids, raised, axis=1)[:, :vocab]


def _draw(logits: mx.array, keys: list[list[int]]) -> mx.array:
    """From softmax(logits), each row with its own key."""

    def one_row(row: mx.array, key: mx.array) -> mx.array:
        return mx.random.categorical(row, key=key)

    return mx.vmap(one_row)(logits, mx.array(keys, dtype=mx.uint32))


def _restricted(logits: mx.array, params: Sequence[SamplingParams]) -> mx.array:
    """Minus infinity outside top_k, top_p and min_p; untouched rows stay bit for bit."""
    narrow = [i for i, p in enumerate(params) if p.top_k > 0 or p.top_p < 1 or p.min_p > 0]
    if not narrow:
        return logits
    index = mx.array(narrow)
    cutoffs = mx.full((len(params), 1), -mx.inf)
    cutoffs[index] = _cutoffs(logits[index], [params[i] for i in narrow])
    return mx.where(logits >= cutoffs, logits, -mx.inf)


def _cutoffs(logits: mx.array, params: Sequence[SamplingParams]) -> mx.array:
    """The smallest logit that each row keeps, (batch, 1)."""
    vocab = logits.shape[-1]
    top_k = mx.array([p.top_k if p.top_k > 0 else vocab for p in params])[:, None]
    # Rounded sums may reach 1 before the last token does, and a top_p of 1 keeps them all.
    top_p = mx.array([p.top_p if p.top_p < 1 else mx.inf for p in params])[:, None]
    min_p = mx.array([p.min_p for p in params])[:, None]
    descending = mx.sort(logits, axis=-1)[:, ::-1]
    in_top_k = mx.arange(vocab)[None] < top_k
    probabilities = mx.softmax(mx.where(in_top_k, descending, -mx.inf), axis=-1)
    before = mx.cumsum(probabilities, axis=-1) - probabilities
    kept = in_top_k & (before < top_p) & (probabilities >= min_p * probabilities[:, :1])
    # All three keep a prefix of the descending order; one token always stays.
    num_kept = mx.maximum(mx.sum(kept, axis=-1, keepdims=True), 1)
    return mx.take_along_axis(descending, num_kept - 1, axis=-1)


def _has_penalty(params: SamplingParams) -> bool:
    return (
        params.repetition_penalty != 1
        or params.frequency_penalty != 0
        or params.presence_penalty != 0
    )


def _penalized(logits: mx.array, inputs: mx.array, rows: Sequence[Row]) -> mx.array:
    """Apply the three penalties, touching only the tokens that occurred.

    repetition: over prompt and answer, divides positive logits and multiplies negative ones.
    frequency and presence: over the answer, subtracted per occurrence and once.
    """
    vocab = logits.shape[-1]
    params = [row.sampling for row in rows]
    # One more column takes the writes of the padding.
    logits = mx.pad(logits.astype(mx.float32), [(0, 0), (0, 1)])
    seen = [set(row.tokens) if row.sampling.repetition_penalty != 1 else () for row in rows]
    answers = [Counter(row.tokens[len(row.prompt) :]) for row in rows]
    in_answer = mx.array([row.has_begun for row in rows])
    in_flight = inputs[:, None].astype(mx.int32)

    ids = mx.concatenate([_padded(seen, vocab), in_flight], axis=1)
    old = mx.take_along_axis(logits, ids, axis=1)
    factor = mx.array([p.repetition_penalty for p in params])[:, None]
    logits = mx.put_along_axis(logits, ids, mx.where(old > 0, old / factor, old * factor), axis=1)

    ids = mx.concatenate(
        [_padded(answers, vocab), mx.where(in_answer[:, None], in_flight, vocab)], axis=1
    )
    presence = mx.array([p.presence_penalty for p in params])[:, None]
    lowered = mx.take_along_axis(logits, ids, axis=1) - presence
    logits = mx.put_along_axis(logits, ids, lowered, axis=1)

    frequency = mx.array([p.frequency_penalty for p in params])[:, None]
    counts = _padded([answer.values() for answer in answers], 0).astype(mx.float32)
    counts = mx.concatenate([counts, mx.ones((len(rows), 1))], axis=1)
    batch_index = mx.broadcast_to(mx.arange(len(rows))[:, None], ids.shape)
    logits = logits.at[batch_index, ids].add(-frequency * counts)  # pyright: ignore[reportUnknownMemberType]
    return logits[:, :vocab]


def _padded(rows: Sequence[Collection[int]], filler: int) -> mx.array:
    """Rows of different lengths as one array, (batch, longest), int32."""
    lists = [list(row) for row in rows]
    width = max(map(len, lists))
    padded = mx.array([row + [filler] * (width - len(row)) for row in lists], dtype=mx.int32)
    return mx.reshape(padded, (len(lists), width))
