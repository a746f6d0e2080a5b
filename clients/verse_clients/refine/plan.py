"""The plan of a round, `plan.toml`: what to write with, judge by, learn and train.

The poet may change it at any time. A step that ran with another command than the plan gives now
runs again, and so do those behind it.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import msgspec

from verse import UserError
from verse.atomic_file import replace_file
from verse.model_spelling import ModelSpellingError, name_problem, parse_model

PLAN_FILE = "plan.toml"
_KEY, _KEYLESS_JUDGE, _NOBODY = "OPENAI_API_KEY", "likelihood", "none"
_PART = Annotated[float, msgspec.Meta(ge=0, lt=1)]
_SHARE = Annotated[float, msgspec.Meta(gt=0, le=1)]
_COUNT = Annotated[int, msgspec.Meta(ge=1)]


class RoundError(UserError):
    """The folder is no round, or its plan says something impossible."""


class JudgePlan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A model that is asked to rank, and where it is."""

    model: str
    base_url: str = ""
    """Empty: as `base_url` of the plan."""


class Extra(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Flags of the commands that the plan has no word for, as on the command line."""

    generate: tuple[str, ...] = ()
    judge: tuple[str, ...] = ()
    convert: tuple[str, ...] = ()
    split: tuple[str, ...] = ()
    """Of `verse data split`."""
    train: tuple[str, ...] = ()
    compare: tuple[str, ...] = ()
    """Of `verse generate`, when the old and the new adapter write to be compared."""


class Plan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One round. Paths are as seen from the folder that `verse` is run in."""

    adapters: tuple[str, ...]
    """They write; the new adapter is compared with the first."""
    new_adapter: str
    """Folder of the adapter that this round trains."""
    themes: str = "data/themes.txt"
    variants: str = ""
    """File with ways to ask; empty: the theme alone."""
    checkpoints: str = "best"
    samples: _COUNT = 4
    """Poems for each theme, adapter, checkpoint and variant."""
    base_url: str = ""
    """Empty: OPENAI_BASE_URL, or our own server."""
    judges: tuple[JudgePlan, ...] = ()
    """None: the poet reads in the order of writing."""
    poems: str = "data/poems.jsonl"
    """The poet's own."""
    split: str = "data/split.json"
    """Which of them are measured with."""
    earlier: tuple[str, ...] = ()
    """Decisions of earlier rounds; what was accepted there stays in."""
    max_synthetic: _PART = 0.5
    max_opening: _SHARE = 0.05
    preset: str = "verse-tiny"
    """A configuration of `verse train`, by name or file."""
    compare_samples: _COUNT = 1
    """Poems for each theme that the old and the new adapter are compared by."""
    extra: Extra = Extra()

    @property
    def old_name(self) -> str:
        """The adapter that the new one has to beat."""
        return self.adapters[0]

    @property
    def new_name(self) -> str:
        """As the server calls it."""
        return Path(self.new_adapter).name


def judges_of(named: Sequence[str] | None, environment: Mapping[str, str]) -> list[str]:
    """Who ranks the poems of a new round.

    Args:
        named: As on the command line; `none` is nobody.
        environment: Whoever has a key there has a model in mind; without one the poet's own server
            computes a ranking and is asked nothing.
    """
    if not named:
        return [] if environment.get(_KEY) else [_KEYLESS_JUDGE]
    return [name for name in named if name != _NOBODY]


def read_plan(folder: Path) -> Plan:
    """Read the plan of a round.

    Raises:
        RoundError: there is none, or it says something impossible.
    """
    path = folder / PLAN_FILE
    try:
        plan = msgspec.toml.decode(path.read_bytes(), type=Plan)
    except FileNotFoundError:
        raise RoundError(
            f"{folder} is no round: it has no {PLAN_FILE}; start one with `verse refine start`."
        ) from None
    except OSError as error:
        raise RoundError(f"{path} cannot be read: {error.strerror}.") from error
    except ValueError as error:  # TOML, UTF-8 and msgspec's own errors are all of this kind
        raise RoundError(f"{path} is not the plan of a round: {error}.") from error
    check(plan, str(path))
    return plan


def check(plan: Plan, place: str) -> None:
    """Find what no step could work with.

    Raises:
        RoundError: one sentence that begins with `place`.
    """
    if not plan.adapters:
        raise RoundError(f"{place}: adapters is empty; name at least one that writes.")
    for adapter in plan.adapters:
        _check_spelling(adapter, place)
    if problem := name_problem(plan.new_name):
        raise RoundError(f"{place}: {problem}")
    addresses = [bool(judge.base_url or plan.base_url) for judge in plan.judges]
    if any(addresses) and not all(addresses):
        raise RoundError(f"{place}: some judges have a base_url and some have none; give all one.")
    if plan.new_name in plan.adapters:
        raise RoundError(f"{place}: new_adapter must not be one of the adapters that write.")


def _check_spelling(adapter: str, place: str) -> None:
    """Refuse paths and other things that the server has no adapter for.

    Raises:
        RoundError: one sentence that begins with `place`.
    """
    try:
        parse_model(adapter)
    except ModelSpellingError as error:
        name = re.split("[@:+]", adapter)[0]
        raise RoundError(f"{place}: {name_problem(name) or error}") from None


def write_plan(folder: Path, plan: Plan) -> Path:
    """Write a plan with every key, so that all can be seen and changed.

    Raises:
        OSError: the folder is missing or read-only, or the disk is full.
    """
    path = folder / PLAN_FILE
    replace_file(path, [_to_toml(plan).encode()])
    return path


def _to_toml(plan: Plan) -> str:
    fields = msgspec.to_builtins(plan)
    tables = {name: fields.pop(name) for name in ("extra", "judges")}
    lines = ["# What this round does; docs/refine.md tells what each key means.", ""]
    lines += _keys(fields)
    for judge in tables["judges"]:
        lines += ["", "[[judges]]", *_keys(judge)]
    return "\n".join([*lines, "", "[extra]", *_keys(tables["extra"])]) + "\n"


def _keys(fields: dict[str, object]) -> list[str]:
    """A JSON string, number or list of strings is TOML as it stands."""
    return [f"{key} = {msgspec.json.encode(value).decode()}" for key, value in fields.items()]
