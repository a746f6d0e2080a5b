"""Keys and values of prompts seen before, reused by the longest common beginning.

The poem prompt is the same for every theme, so most of a prompt has usually been computed already.
Entries belong to what computed them, the adapters' digests and strengths, so a new version of an
adapter never meets the keys and values of the old one. Engine thread only.
"""

from collections.abc import Sequence
from typing import Any, cast

import mlx.core as mx
from mlx_lm.models.cache import LRUPromptCache

Version = tuple[tuple[str, float], ...]
"""(digest, strength) of each adapter; empty for the base."""

_MIN_NEW_TOKENS = 16
"""A prompt that adds fewer to what is known is not kept: computing them again is cheaper."""
_MAX_ENTRIES = 4096


class PrefixCache:
    """Bounded in bytes; what was not used for longest goes first."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._entries = cast(Any, LRUPromptCache(_MAX_ENTRIES, max_bytes))

    @property
    def num_bytes(self) -> int:
        """Held now."""
        return int(self._entries.nbytes)

    def fetch(self, version: Version, tokens: Sequence[int]) -> tuple[list[Any] | None, int]:
        """The cache entries of the longest beginning of `tokens` that is known.

        Returns:
            mlx-lm's cache list, or None, and how many tokens it covers.
        """
        if not tokens:
            return None, 0
        cache, rest = cast(
            tuple[list[Any] | None, list[int]],
            self._entries.fetch_nearest_cache(version, list(tokens)),
        )
        return cache, len(tokens) - len(rest)

    def store(
        self, version: Version, tokens: Sequence[int], cache: list[Any], num_known: int
    ) -> None:
        """Keep what was computed for `tokens`, of which the first `num_known` came from here."""
        if len(tokens) - num_known < _MIN_NEW_TOKENS:
            return
        if sum(entry.nbytes for entry in cache) > self._max_bytes:
            return
        # Taken out of a batch they are not copied yet, and would keep all of that batch in memory.
        mx.eval([entry.state for entry in cache])  # pyright: ignore[reportUnknownMemberType]
        self._entries.insert_cache(version, list(tokens), cache)
