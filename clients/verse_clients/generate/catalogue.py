"""What a server has, and which of it is meant by `--adapters` and `--checkpoints`.

Our own server lists its adapters with their checkpoints; `best`, `last`, `all`, `85`, `200-1200`
and `every:2` choose among them. A foreign one lists names; each is asked as it is.
"""

import re
from collections.abc import Awaitable, Callable, Iterable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from verse.adapter_digest import digest_at
from verse.adapter_folder import folder_at, model_at
from verse.model_spelling import BASE, ModelSpellingError, parse_model
from verse_clients.answers import ServedModel
from verse_clients.errors import SelectionError
from verse_clients.generate.plan import Source

_SHOWN = 12

PUBLISHED = "published"
"""The weights under the adapter's own name."""

Choice = int | Literal["published", "best", "last"]
"""`best` stays a name until the server says which step it is."""

_RANGE = re.compile(r"(\d{1,9})(?:-(\d{1,9}))?")
_EVERY = re.compile(r"every:([1-9]\d{0,8})")


class FromStep(NamedTuple):
    """The original project's `-e`: every saved checkpoint from a step on."""

    first: int
    is_usual: bool = False
    """Whether nobody gave the step: then the published weights stand in where it leaves none."""


ORIGINALS_CHECKPOINTS = FromStep(1000, is_usual=True)
"""What the original project writes with if nothing is said."""

Selection = Sequence[str] | FromStep


def parse_checkpoints(text: str) -> Sequence[str]:
    """Split a selection at its commas.

    Raises:
        SelectionError: a part of it is no way to name checkpoints.
    """
    parts = [part.strip() for part in text.split(",") if part.strip()]
    for part in parts or [""]:
        if part in (PUBLISHED, "best", "last", "all") or _EVERY.fullmatch(part):
            continue
        if not (found := _RANGE.fullmatch(part)) or int(found[2] or found[1]) < int(found[1]):
            raise SelectionError(
                f"{part!r} names no checkpoints; write best, last, all, published, "
                "a step (200), a range (200-1200) or every:2, separated by commas."
            )
    return parts


def choose(selection: Selection, steps: Sequence[int], *, is_published: bool) -> list[Choice]:
    """The checkpoints meant, of those there are; each once, in the order given, then by step.

    Args:
        selection: What `parse_checkpoints` gave, or a first step.
        steps: Of the adapter, ascending.
        is_published: Whether it has weights under its own name.
    """
    if isinstance(selection, FromStep):
        later = [step for step in steps if step >= selection.first]
        return [PUBLISHED] if selection.is_usual and is_published and not later else [*later]
    chosen: list[Choice] = [
        found for part in selection for found in _chosen(part, steps, is_published)
    ]
    return list(dict.fromkeys(chosen))


class ServedAdapter(NamedTuple):
    """An adapter of our own server."""

    name: str
    steps: tuple[int, ...]
    """Ascending."""
    is_published: bool
    """False while it has checkpoints only."""


class Catalogue(NamedTuple):
    """The models of a server."""

    base: str | None
    """Id of the base model; None for a server that knows no adapters."""
    adapters: dict[str, ServedAdapter]
    names: tuple[str, ...]
    """All ids as listed."""


def catalogue(models: Iterable[ServedModel]) -> Catalogue:
    """Sort a list of models."""
    listed = list(models)
    bases = [model.id for model in listed if model.root == model.id]
    names = tuple(model.id for model in listed)
    if not bases:
        return Catalogue(None, {}, names)
    adapters: dict[str, ServedAdapter] = {}
    for model in listed:
        if model.id not in bases:
            name, _, step = model.id.partition("@")
            before = adapters.get(name, ServedAdapter(name, (), False))
            found = [int(step)] if step.isdigit() else [c.step for c in model.checkpoints]
            steps = tuple(sorted({*before.steps, *found}))
            adapters[name] = ServedAdapter(name, steps, before.is_published or not step)
    return Catalogue(bases[0], adapters, names)


def check_base(known: Catalogue, wanted: str) -> None:
    """Refuse to write with another base than the one asked for.

    Raises:
        SelectionError: the server's base has another name.
    """
    if known.base is None:
        if wanted not in known.names:
            raise SelectionError(
                f"The server has no model {wanted!r}; it has {_names(known.names)}."
            )
    elif _last_name(wanted) not in (_last_name(known.base), BASE):
        raise SelectionError(
            f"The server's base is {known.base}, not {wanted}; start one with "
            f"`verse serve --model {wanted}`, or leave -m out."
        )


def choose_sources(known: Catalogue, wanted: Sequence[str], selection: Selection) -> list[Source]:
    """What is to be asked, in the order given; checkpoints may still be `best`.

    Args:
        known: What the server has.
        wanted: Names, paths that end in a name or in a file of its weights, `NAME@STEP`, `base`,
            or other spellings of a model; none of them for every adapter.
        selection: Of checkpoints; does not concern what names its own.

    Raises:
        SelectionError: a name is unknown, or none of its checkpoints is meant.
    """
    if known.base is None:
        return _foreign(known, wanted)
    if not wanted:
        sources = [
            s for name in known.adapters for s in _checkpoints_of(known.adapters[name], selection)
        ]
        if not sources:
            raise SelectionError(
                "The server has no adapter with such checkpoints; it has "
                f"{_names(map(_described, known.adapters.values())) or 'no adapters'}."
            )
        return sources
    found = [source for name in wanted for source in _named(known, name, selection)]
    return list(dict.fromkeys(found))


async def resolve_checkpoints(
    sources: Iterable[Source], find: Callable[[str], Awaitable[ServedModel]]
) -> list[Source]:
    """Replace `best` and `last` by the steps they are now, so that a rerun asks the same.

    Args:
        sources: What is to be asked.
        find: Asks the server about a model; it raises for one that does not exist.
    """
    resolved: list[Source] = []
    for source in sources:
        if isinstance(source.checkpoint, str):
            found = (await find(source.model)).id
            step = found.partition("@")[2]
            source = Source(found, source.adapter, int(step) if step.isdigit() else None)  # noqa: PLW2901
        elif source.adapter is not None and set(source.adapter) & set("+:"):
            await find(source.model)
        resolved.append(source)
    return list(dict.fromkeys(resolved))


async def check_folders(
    wanted: Iterable[str],
    sources: Sequence[Source],
    find: Callable[[str], Awaitable[ServedModel]],
) -> None:
    """See that adapters named by their folders are what the server has under their names.

    Args:
        wanted: Names, and paths; without a slash it is a name.
        sources: What was chosen for them.
        find: Asks the server about a model.

    Raises:
        SelectionError: it has others.
    """
    paths = [each for each in wanted if Path(each).name != each]
    for folder in filter(None, map(folder_at, paths)):
        for source in sources:
            if source.adapter != folder.name:
                continue
            step = source.checkpoint if isinstance(source.checkpoint, int) else None
            here, served = digest_at(folder, step), (await find(source.model)).digest
            if here is not None and served is not None and here != served:
                raise SelectionError(
                    f"The server's {source.model} is another one than in {folder}; "
                    f"start it with --adapters {folder.parent}."
                )


def _foreign(known: Catalogue, wanted: Sequence[str]) -> list[Source]:
    names = wanted or (known.names if len(known.names) == 1 else ())
    if not names:
        raise SelectionError(f"Name the models to ask with --adapters: {_names(known.names)}.")
    for name in names:
        if name not in known.names:
            raise SelectionError(f"The server has no model {name!r}; it has {_names(known.names)}.")
    return [Source(name, name) for name in dict.fromkeys(names)]


def _named(known: Catalogue, wanted: str, selection: Selection) -> list[Source]:
    if wanted in (BASE, known.base):
        return [Source(BASE)]
    name = model_at(wanted)
    if name in known.adapters:
        adapter = known.adapters[name]
        sources = _checkpoints_of(adapter, selection)
        if not sources:
            raise SelectionError(f"None of these checkpoints exists: {_described(adapter)}.")
        return sources
    return [_spelled(known, name)]


def _spelled(known: Catalogue, name: str) -> Source:
    """`NAME@STEP` is a checkpoint; a strength or a blend is an adapter of its own."""
    try:
        parts = parse_model(name)
    except ModelSpellingError as error:
        raise SelectionError(str(error)) from error
    for part in parts:
        if part.name not in known.adapters:
            raise SelectionError(
                f"The server has no adapter {part.name!r}; it has "
                f"{_names(known.adapters) or 'none'}, and {BASE}."
            )
    if len(parts) == 1 and parts[0].strength == 1:
        adapter, step = known.adapters[parts[0].name], parts[0].checkpoint
        if isinstance(step, int) and step not in adapter.steps:
            raise SelectionError(f"There is no checkpoint {name}: {_described(adapter)}.")
        return Source(name, parts[0].name, parts[0].checkpoint)
    return Source(name, name)


def _checkpoints_of(adapter: ServedAdapter, selection: Selection) -> list[Source]:
    chosen = choose(selection, adapter.steps, is_published=adapter.is_published)
    return [_source(adapter.name, choice) for choice in chosen]


def _source(name: str, choice: Choice) -> Source:
    if choice == PUBLISHED:
        return Source(name, name)
    return Source(f"{name}@{choice}", name, choice)


def _described(adapter: ServedAdapter) -> str:
    has = [PUBLISHED] if adapter.is_published else []
    return f"{adapter.name} has {_names([*has, *map(str, adapter.steps)])}"


def _names(names: Iterable[str]) -> str:
    shown = list(names)
    more = len(shown) - _SHOWN
    return ", ".join(shown[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _last_name(path: str) -> str:
    return path.rstrip("/").rpartition("/")[2]


def _chosen(part: str, steps: Sequence[int], is_published: bool) -> Sequence[Choice]:
    if part == PUBLISHED:
        return [PUBLISHED] if is_published else []
    if part == "all":
        return steps
    if part == "last":
        return steps[-1:]
    if part == "best":
        return ["best"] if steps else []
    if found := _EVERY.fullmatch(part):
        return steps[int(found[1]) - 1 :: int(found[1])]
    first, _, last = part.partition("-")
    return [step for step in steps if int(first) <= step <= int(last or first)]
