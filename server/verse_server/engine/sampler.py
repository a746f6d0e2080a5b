"""When tokens are drawn: at once on a GPU, and one step late on a CPU.

On a CPU numpy draws (`host_sampling`), for which the logits must be there. Waiting for them would
leave the model idle while the host reports the tokens before and builds the next forward. So the
tokens handed out are an array whose numbers come later: the next forward is built on it, and they
are drawn before it starts. Engine thread only.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from verse.base_model import runs_on_cpu
from verse_server.engine import host_sampling
from verse_server.engine.rows import Row
from verse_server.engine.sampling import note_drawn, sample, shaped


class Sampler:
    """Of one batch."""

    def __init__(self) -> None:
        self._late: _LateDraw | None = None

    @property
    def is_late(self) -> bool:
        """Whether tokens handed out are still to be drawn."""
        return self._late is not None

    def sample(self, logits: mx.array, inputs: mx.array, rows: Sequence[Row]) -> mx.array:
        """As `sampling.sample`; the numbers in the array are only there after `settle`."""
        self.settle()
        if not runs_on_cpu() or all(row.sampling.is_greedy for row in rows):
            return sample(logits, inputs, rows)
        mx.eval(inputs)  # pyright: ignore[reportUnknownMemberType]  (nobody shall wait for it later)
        self._late = _LateDraw.begin(logits, shaped(logits, inputs, rows), rows)
        return self._late.tokens

    def settle(self) -> None:
        """Draw what was left to be drawn."""
        late, self._late = self._late, None
        if late is not None:
            late.finish()


@dataclass(frozen=True)
class _LateDraw:
    """Logits on their way, and the array that will hold what is drawn from them."""

    logits: mx.array
    """(batch, vocab) float32, the model's."""
    shaped: mx.array
    """(batch, vocab) float32, those to draw from."""
    rows: Sequence[Row]
    tokens: mx.array
    """(batch,) uint32."""

    @classmethod
    def begin(cls, logits: mx.array, shaped: mx.array, rows: Sequence[Row]) -> "_LateDraw":
        """Start the forward."""
        logits, shaped = logits.astype(mx.float32), shaped.astype(mx.float32)
        # From a list, so it is in memory before the forward, which may read it, is queued.
        tokens = mx.array([0] * len(rows), dtype=mx.uint32)
        mx.async_eval(logits, shaped)  # pyright: ignore[reportUnknownMemberType]
        return cls(logits, shaped, rows, tokens)

    def finish(self) -> None:
        """Wait for the logits, draw, and write the tokens where they are awaited."""
        mx.eval(self.logits, self.shaped)  # pyright: ignore[reportUnknownMemberType]
        params = [row.sampling for row in self.rows]
        uniforms = [row.next_uniform for row in self.rows]
        drawn = host_sampling.draw(_on_host(self.shaped), params, uniforms)
        np.array(self.tokens, copy=False)[:] = drawn
        of_drawn = _on_host(self.logits)[np.arange(len(drawn)), drawn]
        note_drawn(self.logits, self.tokens, of_drawn, self.rows)


def _on_host(array: mx.array) -> NDArray[np.float32]:
    """The same memory, as numpy sees it."""
    return cast(NDArray[np.float32], np.array(array, copy=False))
