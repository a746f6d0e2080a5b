"""How mlx-lm and PEFT name the modules of an adapter in their configurations."""

from collections.abc import Iterable

import msgspec


class Targets(msgspec.Struct, frozen=True):
    """The modules, as PEFT picks them out of a model."""

    modules: list[str]
    layers: list[int] | None


def peft_targets(modules: Iterable[str]) -> Targets:
    """Name modules as PEFT does: by their ends and the layers they are in.

    Where that would name others too, every path is named in full. The layers are always named:
    how many there are is the base's secret, and naming all of them does no harm.
    """
    paths = sorted(modules)
    blocks: dict[int, set[str]] = {}
    for path in paths:
        block, key = split_block(path)
        if block is None:
            return Targets(paths, None)
        blocks.setdefault(block, set()).add(key)
    keys = next(iter(blocks.values()))
    if any(other != keys for other in blocks.values()):
        return Targets(paths, None)
    return Targets(sorted(keys), sorted(blocks))


def split_block(path: str) -> tuple[int | None, str]:
    """The number of the block a module is in, and its path inside; None and all of it outside."""
    parts = path.split(".")
    for place, part in enumerate(parts[:-1]):
        if part.isdecimal():
            return int(part), ".".join(parts[place + 1 :])
    return None, path


def block_keys(modules: Iterable[str]) -> list[str]:
    """mlx-lm's `keys`; it takes a full path for a module outside of the blocks."""
    return sorted({split_block(path)[1] for path in modules})
