"""How large an adapter may be, and what one takes of the memory. Pure: no mlx.

Factors lie in stacks by rank class (see `lora`), a module's padded to the next power of two; so
what an adapter takes depends on its own ranks alone, never on its neighbours'.
"""

from collections.abc import Mapping

import msgspec

from verse.adapter_files import AdapterFileError, AdapterPlan, ModuleShape

_SMALLEST_CLASS = 8
_MB = 1e6


def rank_class(rank: int) -> int:
    """The rank that factors of this one are padded to: 8, 16, 32 and so on."""
    return max(_SMALLEST_CLASS, 1 << (rank - 1).bit_length())


class AdapterLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What the server takes on."""

    max_rank: int = 256
    max_bytes: int | None = None
    """For all adapters in memory together; None does not count."""
    bytes_per_number: int = 4

    def bytes_of(self, plan: AdapterPlan, shapes: Mapping[str, ModuleShape]) -> int:
        """What an adapter takes in memory: padded factors, and DoRA's gains and shifts."""
        numbers = 0
        for path, factors in plan.modules.items():
            shape = shapes[path]
            numbers += rank_class(factors.rank) * (shape.in_dims + shape.out_dims)
            numbers += 2 * shape.out_dims if factors.m else 0
        return numbers * self.bytes_per_number

    def check(self, plan: AdapterPlan, shapes: Mapping[str, ModuleShape]) -> int:
        """What an adapter takes in memory.

        Raises:
            AdapterFileError: it is more than the server takes; with the figures.
        """
        if plan.rank > self.max_rank:
            raise AdapterFileError(
                f"its rank is {plan.rank} and this server takes at most {self.max_rank}; "
                "start it with a larger --max-rank, or train with a smaller rank."
            )
        num_bytes = self.bytes_of(plan, shapes)
        if self.max_bytes is not None and num_bytes > self.max_bytes:
            raise AdapterFileError(
                f"it takes {megabytes(num_bytes)} of memory and all adapters together may have "
                f"{megabytes(self.max_bytes)}; start the server with a larger --adapter-bytes, or "
                "train with a smaller rank."
            )
        return num_bytes


def megabytes(num_bytes: int) -> str:
    """For a sentence: `1,234.5 MB`."""
    return f"{num_bytes / _MB:,.1f} MB"
