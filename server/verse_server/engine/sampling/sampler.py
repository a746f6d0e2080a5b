"""Draw the next token of every row in one go, each row by its own parameters.

Order: grammar, bias, penalties (all in `processors`), temperature, top_k, top_p, min_p, XTC, draw.
Tokens that tie with the last one kept are kept too. Log-probabilities are those of the model,
before any of these.

Tokens are drawn at once on a GPU, and one step late on a CPU, where numpy draws (`cpu`), for which
the logits must be there. Waiting for them would leave the model idle while the host reports the
tokens before and builds the next forward. So the tokens handed out are an array whose numbers come
later: the next forward is built on it, and they are drawn before it starts. Engine thread only.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import cast

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from verse.base_model import runs_on_cpu
from verse.cpu_weights.threads import Threads
from verse_server.engine.sampling import cpu
from verse_server.engine.sampling.host_processors import processed_rows
from verse_server.engine.sampling.processors import processed
from verse_server.engine.sequence import DrawnLogits, NotedLogprobs, Sequence, StepLogprobs
from verse_server.engine.types import SamplingParams

StepLogits = mx.array | NDArray[np.float32]
"""(rows, vocab), on the device or on the host."""


def taken(logits: StepLogits, rows: list[int]) -> StepLogits:
    """Some of the rows, by their places."""
    return logits[mx.array(rows)] if isinstance(logits, mx.array) else logits[rows]


def _on_device(logits: StepLogits) -> mx.array:
    return logits if isinstance(logits, mx.array) else mx.array(logits)


def sample(
    logits: mx.array,
    inputs: mx.array,
    rows: list[Sequence],
    never_excluded: Collection[int] = (),
) -> mx.array:
    """One token for each row.

    Args:
        logits: (batch, vocab), any float type.
        inputs: (batch,) the tokens that gave them. They may still be in flight, which is why the
            rows' own lists do not hold them yet.
        rows: In the batch's order.
        never_excluded: Tokens that XTC leaves alone.

    Returns:
        (batch,) token ids.
    """
    drawn = _drawn(processed(logits, inputs, rows), rows, never_excluded)
    of_drawn = mx.take_along_axis(logits, drawn[:, None], axis=-1)[:, 0]
    mx.async_eval(of_drawn)  # pyright: ignore[reportUnknownMemberType]
    note_drawn(logits, drawn, of_drawn, rows)
    return drawn


def note_drawn(
    logits: StepLogits,
    drawn: mx.array,
    of_drawn: mx.array | NDArray[np.float32],
    rows: list[Sequence],
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


def _drawn(logits: mx.array, rows: list[Sequence], never_excluded: Collection[int]) -> mx.array:
    params = [row.sampling for row in rows]
    greedy = [p.is_greedy for p in params]
    if all(greedy):
        return mx.argmax(logits, axis=-1)
    logits = logits.astype(mx.float32)
    temperatures = [1.0 if p.is_greedy else p.temperature for p in params]
    tempered = logits / mx.array(temperatures)[:, None]
    restricted = _without_top_choices(logits, _restricted(tempered, params), rows, never_excluded)
    drawn = _draw(restricted, [row.next_key() for row in rows])
    return mx.where(mx.array(greedy), mx.argmax(logits, axis=-1), drawn)


def _note_logprobs(logits: StepLogits, drawn: mx.array, rows: list[Sequence]) -> None:
    """Note the log-probabilities of the rows that asked; nothing is computed for the others."""
    asked = [i for i, row in enumerate(rows) if row.num_top_logprobs is not None]
    if not asked:
        return
    index = mx.array(asked)
    chosen = _on_device(taken(logits, asked)).astype(mx.float32)
    logprobs = chosen - mx.logsumexp(chosen, axis=-1, keepdims=True)
    of_drawn = mx.take_along_axis(logprobs, drawn[index][:, None], axis=-1)[:, 0]
    num_top = max(rows[i].num_top_logprobs or 0 for i in asked)
    top_ids = mx.argpartition(-logprobs, num_top, axis=-1)[:, :num_top]
    top = mx.take_along_axis(logprobs, top_ids, axis=-1)
    order = mx.argsort(-top, axis=-1)
    top_ids = mx.take_along_axis(top_ids, order, axis=-1)
    top = mx.take_along_axis(top, order, axis=-1)
    mx.async_eval(of_drawn, top_ids, top)  # pyright: ignore[reportUnknownMemberType]
    step = StepLogprobs(of_drawn, top_ids, top)
    for position, i in enumerate(asked):
        rows[i].noted.append(NotedLogprobs(step, position))


def _draw(logits: mx.array, keys: list[list[int]]) -> mx.array:
    """From softmax(logits), each row with its own key."""

    def one_row(row: mx.array, key: mx.array) -> mx.array:
        return mx.random.categorical(row, key=key)

    return mx.vmap(one_row)(logits, mx.array(keys, dtype=mx.uint32))


def _restricted(logits: mx.array, params: list[SamplingParams]) -> mx.array:
    """Minus infinity outside top_k, top_p and min_p; untouched rows stay bit for bit."""
    narrow = [i for i, p in enumerate(params) if p.top_k > 0 or p.top_p < 1 or p.min_p > 0]
    if not narrow:
        return logits
    index = mx.array(narrow)
    cutoffs = mx.full((len(params), 1), -mx.inf)
    cutoffs[index] = _cutoffs(logits[index], [params[i] for i in narrow])
    return mx.where(logits >= cutoffs, logits, -mx.inf)


def _cutoffs(logits: mx.array, params: list[SamplingParams]) -> mx.array:
    """The smallest logit that each row keeps, (batch, 1)."""
    vocab = logits.shape[-1]
    top_k = mx.array([p.top_k if p.top_k > 0 else vocab for p in params])[:, None]
    # Rounded sums may reach 1 before the last token does, and a top_p of 1 keeps them all.
    top_p = mx.array([p.top_p if p.top_p < 1 else mx.inf for p in params])[:, None]
    min_p = mx.array([p.min_p for p in params])[:, None]
    descending = mx.sort(logits, axis=-1)[:, ::-1]
    # Those as likely as the last of them are among them: which is which is an accident.
    in_top_k = descending >= mx.take_along_axis(descending, mx.minimum(top_k, vocab) - 1, axis=-1)
    probabilities = mx.softmax(mx.where(in_top_k, descending, -mx.inf), axis=-1)
    before = mx.cumsum(probabilities, axis=-1) - probabilities
    kept = in_top_k & (before < top_p) & (probabilities >= min_p * probabilities[:, :1])
    # All three keep a prefix of the descending order; one token always stays.
    num_kept = mx.maximum(mx.sum(kept, axis=-1, keepdims=True), 1)
    return mx.take_along_axis(descending, num_kept - 1, axis=-1)


def _without_top_choices(
    logits: mx.array,
    restricted: mx.array,
    rows: list[Sequence],
    never_excluded: Collection[int],
) -> mx.array:
    """Minus infinity at what XTC excludes, as mlx_lm's `apply_xtc`; other rows stay bit for bit.

    Args:
        logits: (batch, vocab), before temperature.
        restricted: (batch, vocab), tempered; minus infinity outside top_k, top_p and min_p.
        rows: In the batch's order.
        never_excluded: Token ids.
    """
    chance = [(i, row.sampling.xtc_probability) for i, row in enumerate(rows)]
    hit = [i for i, share in chance if share > 0 and rows[i].next_uniform() < share]
    if not hit:
        return restricted
    index = mx.array(hit)
    inside = restricted[index]
    probabilities = mx.softmax(mx.where(inside > -mx.inf, logits[index], -mx.inf), axis=-1)
    thresholds = mx.array([rows[i].sampling.xtc_threshold for i in hit])[:, None]
    above = mx.where(probabilities > thresholds, probabilities, mx.inf)
    excluded = probabilities > mx.min(above, axis=-1, keepdims=True)
    if never_excluded:
        excluded[:, mx.array(list(never_excluded))] = False
    restricted = mx.array(restricted)  # assigning to the caller's own would change what it holds
    restricted[index] = mx.where(excluded, -mx.inf, inside)
    return restricted


class Sampler:
    """Of one batch."""

    def __init__(
        self, never_excluded: Collection[int] = (), threads: Threads | None = None
    ) -> None:
        """Make one.

        Args:
            never_excluded: Tokens that XTC leaves alone.
            threads: Those of a model on the host. They draw at once: the forward has been computed
                already, and the next one needs the tokens when it is built.
        """
        self._never_excluded = tuple(never_excluded)
        self._threads = threads
        self._late: _LateDraw | None = None

    @property
    def is_late(self) -> bool:
        """Whether tokens handed out are still to be drawn."""
        return self._late is not None

    def sample(self, logits: StepLogits, inputs: mx.array, rows: list[Sequence]) -> mx.array:
        """As `sampling.sample`; the numbers in the array are only there after `settle`."""
        self.settle()
        if self._threads is not None:
            return self._sampled_at_once(logits, inputs, rows, self._threads)
        logits = _on_device(logits)
        if not runs_on_cpu() or all(row.sampling.is_greedy for row in rows):
            return sample(logits, inputs, rows, self._never_excluded)
        mx.eval(inputs)  # pyright: ignore[reportUnknownMemberType]  (nobody shall wait for it later)
        self._late = _LateDraw.begin(logits, processed(logits, inputs, rows), rows)
        return self._late.tokens

    def _sampled_at_once(
        self, logits: StepLogits, inputs: mx.array, rows: list[Sequence], threads: Threads
    ) -> mx.array:
        is_there = not isinstance(logits, mx.array)
        on_host = logits if is_there else _on_host(logits.astype(mx.float32))
        tokens_before = cast(list[int], inputs.tolist())
        drawn = cpu.draw(
            processed_rows(on_host, tokens_before, rows),
            [row.sampling for row in rows],
            rows,
            self._never_excluded,
            threads.run,
        )
        for row, token in zip(rows, drawn.tolist(), strict=True):
            if row.matcher is not None:
                row.matcher.take(token)  # so that an answer that is complete with it ends with it
        tokens = mx.array(drawn.astype(np.uint32))
        note_drawn(on_host, tokens, on_host[np.arange(len(drawn)), drawn], rows)
        return tokens

    def settle(self) -> None:
        """Draw what was left to be drawn."""
        late, self._late = self._late, None
        if late is not None:
            late.finish(self._never_excluded)


@dataclass(frozen=True)
class _LateDraw:
    """StepLogits on their way, and the array that will hold what is drawn from them."""

    logits: mx.array
    """(batch, vocab) float32, the model's."""
    processed: mx.array
    """(batch, vocab) float32, those to draw from."""
    rows: list[Sequence]
    tokens: mx.array
    """(batch,) uint32."""

    @classmethod
    def begin(cls, logits: mx.array, processed: mx.array, rows: list[Sequence]) -> "_LateDraw":
        """Start the forward."""
        logits, processed = logits.astype(mx.float32), processed.astype(mx.float32)
        # From a list, so it is in memory before the forward, which may read it, is queued.
        tokens = mx.array([0] * len(rows), dtype=mx.uint32)
        mx.async_eval(logits, processed)  # pyright: ignore[reportUnknownMemberType]
        return cls(logits, processed, rows, tokens)

    def finish(self, never_excluded: tuple[int, ...]) -> None:
        """Wait for the logits, draw, and write the tokens where they are awaited."""
        mx.eval(self.logits, self.processed)  # pyright: ignore[reportUnknownMemberType]
        params = [row.sampling for row in self.rows]
        drawn = cpu.draw(_on_host(self.processed), params, self.rows, never_excluded)
        np.array(self.tokens, copy=False)[:] = drawn
        of_drawn = _on_host(self.logits)[np.arange(len(drawn)), drawn]
        note_drawn(self.logits, self.tokens, of_drawn, self.rows)


def _on_host(array: mx.array) -> NDArray[np.float32]:
    """The same memory, as numpy sees it."""
    return cast(NDArray[np.float32], np.array(array, copy=False))
