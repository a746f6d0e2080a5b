"""What is done to a model's logits before tokens are drawn: grammar, bias, penalties.

Before all of them, a row that must not end yet loses its end tokens. Engine thread only.
"""

from collections import Counter
from collections.abc import Collection, Iterable
from typing import Any

import mlx.core as mx
import msgspec
import numpy as np
from numpy.typing import NDArray

from verse_server.engine.sequence import Sequence
from verse_server.engine.types import SamplingParams


def processed(logits: mx.array, inputs: mx.array, rows: list[Sequence]) -> mx.array:
    """The logits after grammar, bias and penalties; arguments as of `sampler.sample`."""
    if any(not row.may_end for row in rows):
        logits = _kept_open(logits, rows)
    if any(row.matcher for row in rows):
        logits = _allowed(logits, inputs, rows)
    if any(row.sampling.logit_bias for row in rows):
        logits = _biased(logits, rows)
    if any(_has_penalty(row.sampling) for row in rows):
        logits = _penalized(logits, inputs, rows)
    return logits


def _allowed(logits: mx.array, inputs: mx.array, rows: list[Sequence]) -> mx.array:
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


def _kept_open(logits: mx.array, rows: list[Sequence]) -> mx.array:
    """Minus infinity at the tokens that end a row which has too few; others stay bit for bit."""
    logits = mx.array(logits)  # assigning to the caller's own would change what it holds
    for index, row in enumerate(rows):
        if not row.may_end and row.ends:
            logits[index, mx.array(row.ends)] = -mx.inf
    return logits


def _biased(logits: mx.array, rows: list[Sequence]) -> mx.array:
    """Add each row's bias to the tokens it names; other rows stay bit for bit.

    As a whole row of the vocabulary, filled in numpy: lists of ids would be made anew in each step,
    and 50,000 of them take the interpreter from everybody else for milliseconds.
    """
    index = [i for i, row in enumerate(rows) if row.sampling.logit_bias]
    biases = np.zeros((len(index), logits.shape[-1]), np.float32)
    for place, i in enumerate(index):
        ids, values = rows[i].bias
        biases[place, ids] = values
    logits = mx.array(logits.astype(mx.float32))  # the caller's own is not assigned to
    which = mx.array(index)
    logits[which] = logits[which] + mx.array(biases)
    return logits


def _has_penalty(params: SamplingParams) -> bool:
    return (
        params.repetition_penalty != 1
        or params.frequency_penalty != 0
        or params.presence_penalty != 0
    )


def _penalized(logits: mx.array, inputs: mx.array, rows: list[Sequence]) -> mx.array:
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


def _padded(rows: Iterable[Collection[int]], filler: int) -> mx.array:
    """Rows of different lengths as one array, (batch, longest), int32."""
    lists = [list(row) for row in rows]
    width = max(map(len, lists))
    padded = mx.array([row + [filler] * (width - len(row)) for row in lists], dtype=mx.int32)
    return mx.reshape(padded, (len(lists), width))
