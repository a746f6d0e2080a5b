"""The steps of a round as data: what each runs, reads and leaves behind. Nothing runs here."""

import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import msgspec

from verse_clients.refine.plan import Plan

StepName = Literal["generate", "filter", "judge", "curate", "convert", "train", "compare"]
Command = tuple[str, ...]
"""What follows `verse` on the command line."""


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One step."""

    name: StepName
    does: str
    """In a few words, for the poet."""
    commands: tuple[Command, ...] = ()
    """One after the other; none: there is nothing to do in this round."""
    inputs: tuple[Path, ...] = ()
    outputs: tuple[Path, ...] = ()
    by_hand: bool = False
    """Whether the poet does it."""
    adapter: Path | None = None
    """The folder that the last command makes, and refuses to make twice."""
    drafts: tuple[Path, ...] = ()
    """Intermediate files that belong to these commands and inputs alone: once either changes, what
    they hold is beside the point."""

    @property
    def lines(self) -> list[str]:
        """The commands as one would type them."""
        return [shown(command) for command in self.commands]


def shown(command: Command) -> str:
    """A command as one would type it."""
    return shlex.join(("verse", *command))


def steps(plan: Plan, folder: Path) -> tuple[Step, ...]:
    """All steps of a round, in their order."""
    return (
        _generate(plan, folder),
        _filter(plan, folder),
        _judge(plan, folder),
        _curate(plan, folder),
        _convert(plan, folder),
        _train(plan, folder),
        _compare(plan, folder),
    )


def queue_file(plan: Plan, folder: Path) -> Path:
    """The poems that the poet reads."""
    return folder / ("ranked.json" if plan.judges else "filtered.jsonl")


def journal_file(folder: Path) -> Path:
    """The poet's decisions."""
    return folder / "decisions.jsonl"


def written_file(folder: Path) -> Path:
    """All poems that the adapters wrote."""
    return folder / "poems.jsonl"


def compared_file(folder: Path) -> Path:
    """The poems by which the old and the new adapter are compared."""
    return folder / "compare" / "poems.jsonl"


def _generate(plan: Plan, folder: Path) -> Step:
    output = written_file(folder)
    command = _write(plan, plan.adapters, plan.checkpoints, plan.samples, output)
    if plan.variants:
        command = (*command, "--variants", plan.variants)
    command = (*command, *_flags("--accepted", plan.earlier))
    return Step(
        name="generate",
        does="let the adapters write",
        commands=((*command, *plan.extra.generate),),
        inputs=(Path(plan.themes), *([Path(plan.variants)] if plan.variants else [])),
        outputs=(output,),
    )


def _filter(plan: Plan, folder: Path) -> Step:
    output = folder / "filtered.jsonl"
    command = ("refine", "filter", "-i", str(written_file(folder)), "-o", str(output))
    return Step(
        name="filter",
        does="leave out what is cut off, copied or nearly the same",
        commands=((*command, *_poets(plan), *_flags("--decided", plan.earlier)),),
        inputs=(written_file(folder), *_poets_files(plan)),
        outputs=(output,),
    )


def _judge(plan: Plan, folder: Path) -> Step:
    if not plan.judges:
        return Step(name="judge", does="nothing: the plan names no judge")
    source, output = folder / "filtered.jsonl", folder / "ranked.json"
    command = ("judge", "-i", str(source), "-o", str(output))
    command = (*command, *_flags("--judge", (judge.model for judge in plan.judges)))
    urls = [url for judge in plan.judges if (url := judge.base_url or plan.base_url)]
    command = (*command, *_flags("--base-url", urls if len(set(urls)) > 1 else urls[:1]))
    return Step(
        name="judge",
        does="order the poems, the best first",
        commands=((*command, *plan.extra.judge),),
        inputs=(source,),
        outputs=(output,),
    )


def _curate(plan: Plan, folder: Path) -> Step:
    source = queue_file(plan, folder)
    return Step(
        name="curate",
        does="accept, edit and reject, by hand",
        commands=(("curate", str(source), "--training", plan.poems),),
        inputs=(source,),
        outputs=(journal_file(folder),),
        by_hand=True,
    )


def _convert(plan: Plan, folder: Path) -> Step:
    journals = [*plan.earlier, str(journal_file(folder))]
    output, data = folder / "additional_poems.jsonl", folder / "data"
    command = (
        *("refine", "convert", *_flags("-i", journals)),
        *("-o", str(output), "--next", str(data), *_poets(plan)),
        *("--max-synthetic", str(plan.max_synthetic), "--max-opening", str(plan.max_opening)),
    )
    return Step(
        name="convert",
        does="turn decisions into the next training set",
        commands=(
            (*command, *plan.extra.convert),
            ("data", "split", str(data / "poems.jsonl"), *plan.extra.split),
        ),
        inputs=(*map(Path, journals), *_poets_files(plan)),
        outputs=(output, data / "train.jsonl", data / "valid.jsonl"),
    )


def _train(plan: Plan, folder: Path) -> Step:
    data = folder / "data"
    command = ("train", "-c", plan.preset, "--data", str(data), "--adapter-path", plan.new_adapter)
    return Step(
        name="train",
        does="train the new adapter",
        commands=((*command, *plan.extra.train),),
        inputs=(data / "train.jsonl", data / "valid.jsonl", *_preset_file(plan)),
        outputs=(Path(plan.new_adapter) / "adapters.safetensors",),
        adapter=Path(plan.new_adapter),
    )


def _compare(plan: Plan, folder: Path) -> Step:
    output = compared_file(folder)
    place = output.parent
    sides = ((plan.old_name, place / "old.jsonl"), (plan.new_name, place / "new.jsonl"))
    seeds_and_more = ("--common-seeds", *plan.extra.compare)
    writes = [
        (*_write(plan, (name,), "best", plan.compare_samples, path), *seeds_and_more)
        for name, path in sides
    ]
    compare = (
        *("refine", "compare", *(str(path) for _, path in sides)),
        *("-o", str(output), "--numbers", str(place / "numbers.json")),
        *("--adapters-folder", str(Path(plan.new_adapter).parent), *_poets(plan)),
    )
    return Step(
        name="compare",
        does="write with the old and the new adapter, to be read blind",
        commands=(*writes, compare),
        inputs=(Path(plan.new_adapter) / "adapters.safetensors", Path(plan.themes)),
        outputs=(output, place / "numbers.json"),
        drafts=tuple(path for _, path in sides),
    )


def _write(
    plan: Plan, adapters: tuple[str, ...], checkpoints: str, samples: int, output: Path
) -> Command:
    command = (
        *("generate", "--themes", plan.themes, "--adapters", ",".join(adapters)),
        *("--checkpoints", checkpoints, "-n", str(samples), "--training", plan.poems),
        *("-o", str(output)),
    )
    return (*command, "--base-url", plan.base_url) if plan.base_url else command


def _poets(plan: Plan) -> Command:
    return ("--poems", plan.poems, "--split", plan.split)


def _flags(name: str, values: Iterable[str]) -> Command:
    """The flag once for each value."""
    return tuple(word for value in values for word in (name, value))


def _poets_files(plan: Plan) -> tuple[Path, ...]:
    return (Path(plan.poems), Path(plan.split))


def _preset_file(plan: Plan) -> tuple[Path, ...]:
    """The configuration, where it is a file and not one that ships with Verse."""
    return (Path(plan.preset),) if plan.preset.endswith((".yaml", ".yml")) else ()
