"""`verse refine`: the round from writing to the next adapter, step by step.

Nothing heavy is imported before a command runs: `verse --help` loads this module.
"""

import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from verse.folders import RULE, found, own
from verse.model_spelling import name_problem
from verse.terminal import show
from verse_clients.options import OptionGroup, grouped

if TYPE_CHECKING:
    from verse_clients.refine.commands import PoetFiles
    from verse_clients.refine.plan import Plan
    from verse_clients.screening import Limits

_ROUND = typer.Option("--round", show_default="the newest in rounds/", help="A round's folder.")
_Round = Annotated[Path | None, _ROUND]
_POEMS, _SPLIT, _THEMES = "data/poems.jsonl", "data/split.json", "data/themes.txt"
_Poems = Annotated[
    Path | None, typer.Option("--poems", show_default=_POEMS, help="The poet's own poems.")
]
_Split = Annotated[
    Path | None,
    typer.Option("--split", show_default=_SPLIT, help="Which of them validate: a split."),
]
_MaxSynthetic = Annotated[
    float, typer.Option(min=0, max=0.99, help="Share of model-written poems at most.")
]


class PoetFlags(OptionGroup):
    """Where the poet's own poems are."""

    poems: _Poems = None
    split: _Split = None
    without_split: Annotated[
        bool, typer.Option("--without-split", help="Keep no poem for validation.")
    ] = False

    def files(self) -> "PoetFiles":
        """The files to read."""
        from verse_clients.refine.commands import PoetFiles

        split = None if self.without_split else self.split or own(_SPLIT)
        return PoetFiles(poems=self.poems or own(_POEMS), split=split)


class CopyFlags(OptionGroup):
    """From when on two texts are too much alike."""

    max_run: Annotated[
        int, typer.Option(min=1, help="This many characters in a row count as a copy.")
    ] = 13
    max_copied: Annotated[
        float,
        typer.Option(min=0, max=1, help="So does this share of a poem taken from one source."),
    ] = 0.5
    max_likeness: Annotated[
        float,
        typer.Option(min=0.01, max=1, help="Poems with at least this edit ratio are the same."),
    ] = 0.8

    def limits(self) -> "Limits":
        """For the screening of poems."""
        from verse_clients.screening import CopyLimits, Limits

        return Limits(CopyLimits(block=self.max_run, share=self.max_copied), self.max_likeness)


class StartFlags(OptionGroup):
    """What the plan of a new round says."""

    adapters: Annotated[str, typer.Option(help="Adapters that write, as in xuzhimo,hushi.")]
    name: Annotated[
        str | None,
        typer.Option(
            "--name", show_default="the first adapter's with -rNN", help="Name of the new adapter."
        ),
    ] = None
    themes: Annotated[
        Path | None, typer.Option(show_default=_THEMES, help="A file with one theme a line.")
    ] = None
    variants: Annotated[
        Path | None,
        typer.Option(show_default="the theme alone", help="A file with one prompt a line."),
    ] = None
    checkpoints: Annotated[
        str, typer.Option(help="Which checkpoints write, as in verse generate.")
    ] = "best"
    samples: Annotated[
        int,
        typer.Option(
            "-n", "--samples", min=1, help="Poems for each theme, adapter and checkpoint."
        ),
    ] = 4
    judge: Annotated[
        list[str] | None,
        typer.Option(
            show_default="likelihood if OPENAI_API_KEY is not set",
            help="A model that ranks the poems; repeat it for more. none for nobody.",
        ),
    ] = None
    base_url: Annotated[
        str | None, typer.Option(show_default="as verse generate", help="The server's address.")
    ] = None
    preset: Annotated[str, typer.Option(help="What to train with, as in verse train -c.")] = (
        "verse-tiny"
    )
    poems: _Poems = None
    split: _Split = None
    max_synthetic: _MaxSynthetic = 0.5
    replace: Annotated[
        bool,
        typer.Option(
            "--replace", help="Plan anew the round that was not begun; its old plan is kept."
        ),
    ] = False
    another: Annotated[
        bool, typer.Option("--another", help="Leave that round, and start one more.")
    ] = False

    def seen_from_elsewhere(self) -> "StartFlags":
        """With the paths that were given as they are from any folder."""
        paths = {name: getattr(self, name) for name in ("themes", "variants", "poems", "split")}
        given: dict[str, object] = {name: path.absolute() for name, path in paths.items() if path}
        if Path(self.preset).is_file():
            given["preset"] = str(Path(self.preset).absolute())
        return msgspec.structs.replace(self, **given)


app = typer.Typer(
    add_completion=False,
    pretty_exceptions_show_locals=False,
    rich_markup_mode=None,
    help="Write, judge, decide, train and compare, round by round; alone, it does what comes next.",
)


@app.callback(invoke_without_command=True)
def main(context: typer.Context, folder: _Round = None) -> None:
    """Write, judge, decide, train and compare, round by round; alone, it does what comes next."""
    if context.invoked_subcommand is None:
        next_steps(folder)
    elif folder is not None:
        raise typer.BadParameter("put --round after the step, as in verse refine status --round NN")


@app.command(epilog=RULE)
@grouped
def start(flags: StartFlags) -> None:
    """Start a round: write its plan, which you can edit before a step runs."""
    from verse_clients.refine import rounds

    root = own("rounds").parent if own("rounds").is_dir() else own("data").parent
    from_elsewhere = flags.seen_from_elsewhere()
    if rounds.work_from(root, show):
        flags = from_elsewhere
    waiting = rounds.not_begun()
    if waiting is None or _wants_another(waiting, flags):
        folder = rounds.start_round(_plan(flags, rounds.next_number()))
    else:
        folder = waiting
        aside = rounds.plan_anew(folder, _plan(flags, int(folder.name)))
        show(f"The earlier plan is kept as {aside}.")
    show(f"{folder}/plan.toml is the plan; change it as you like, then run `verse refine`.")
    show(rounds.listing(rounds.look_at(folder)))


def _plan(flags: StartFlags, number: int) -> "Plan":
    from verse_clients.refine import rounds
    from verse_clients.refine.plan import JudgePlan, Plan, RoundError, judges_of

    names = tuple(part.strip() for part in flags.adapters.split(",") if part.strip())
    first = re.split("[@:+]", names[0])[0] if names else ""
    name = f"{first}-r{number:02}" if flags.name is None else flags.name
    if flags.name is not None and (problem := name_problem(name)):
        raise RoundError(f"The plan: {problem}")
    return Plan(
        adapters=names,
        new_adapter=str(own("adapters") / name),
        themes=str(flags.themes or found(_THEMES)),
        variants=str(flags.variants or ""),
        checkpoints=flags.checkpoints,
        samples=flags.samples,
        judges=tuple(JudgePlan(model=model) for model in judges_of(flags.judge, os.environ)),
        base_url=flags.base_url or "",
        preset=flags.preset,
        poems=str(flags.poems or own(_POEMS)),
        split=str(flags.split or own(_SPLIT)),
        earlier=rounds.earlier_decisions(),
        max_synthetic=flags.max_synthetic,
    )


def _wants_another(waiting: Path, flags: StartFlags) -> bool:
    """Whether to start one more beside a round that was not begun, or to plan that one anew."""
    from verse_clients.refine.plan import RoundError

    if flags.replace or flags.another:
        return flags.another
    planned = f"{waiting} is planned and not begun"
    if not sys.stdin.isatty():
        raise RoundError(
            f"{planned}; `verse refine` begins it, --replace plans it anew, --another starts one "
            "more."
        )
    answer: str = typer.prompt(
        f"{planned}: replace its plan, start another, or stop", default="stop"
    )
    if answer not in ("replace", "another"):
        raise RoundError(f"Nothing was started; `verse refine` begins {waiting}.")
    return answer == "another"


@app.command("next")
def next_steps(folder: _Round = None) -> None:
    """Run the next steps of a round, up to the one that needs you."""
    from verse_clients.refine import rounds
    from verse_clients.refine.runner import Program

    place = _round(folder)
    waiting = rounds.advance(place, Program(), show)
    show(rounds.invitation(waiting.step) if waiting else rounds.farewell(place))


@app.command()
def status(folder: _Round = None) -> None:
    """Show the state of each step of a round, and the commands it runs."""
    from verse_clients.refine import rounds

    place = _round(folder)
    show(place)
    show(rounds.listing(rounds.look_at(place)))


@app.command()
def generate(folder: _Round = None) -> None:
    """Let the adapters write the poems of a round."""
    _run("generate", folder)


@app.command("filter", epilog=RULE)
@grouped
def filter_poems(
    poets: PoetFlags,
    copies: CopyFlags,
    source: Annotated[
        Path | None,
        typer.Option("-i", "--input", show_default="the step of the round", help="Poems."),
    ] = None,
    output: Annotated[Path, typer.Option("-o", "--output", help="The poems that remain.")] = Path(
        "filtered.jsonl"
    ),
    decided: Annotated[
        list[Path] | None,
        typer.Option(help="Decisions of earlier rounds; poems like theirs are left out."),
    ] = None,
    folder: _Round = None,
) -> None:
    """Leave out poems that are cut off, copied, or nearly another poem."""
    if source is None:
        return _run("filter", folder)
    from verse_clients.refine import commands

    show(commands.run_filter(source, output, poets.files(), decided or [], copies.limits()))
    return None


@app.command()
def judge(folder: _Round = None) -> None:
    """Let the judges of a round order its poems."""
    _run("judge", folder)


@app.command(epilog=RULE)
@grouped
def convert(
    poets: PoetFlags,
    copies: CopyFlags,
    decisions: Annotated[
        list[Path] | None,
        typer.Option(
            "-i",
            "--decisions",
            show_default="the step of the round",
            help="Journals, or the original project's updated_overall_poems.json; oldest first.",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            show_default="data/additional_poems.jsonl",
            help="The poems to learn from.",
        ),
    ] = None,
    next_set: Annotated[
        Path | None,
        typer.Option("--next", show_default="none", help="Folder for the whole next training set."),
    ] = None,
    max_synthetic: _MaxSynthetic = 0.5,
    max_opening: Annotated[
        float, typer.Option(min=0.001, max=1, help="Share of poems with the same first line.")
    ] = 0.05,
    list_file: Annotated[
        Path | None,
        typer.Option("--list", show_default="none", help="Also write the original's list."),
    ] = None,
    folder: _Round = None,
) -> None:
    """Turn decisions into training rows and preference pairs."""
    if not decisions:
        return _run("convert", folder)
    from verse_clients.refine import commands
    from verse_clients.refine.convert import ShareLimits

    text = commands.run_convert(
        decisions,
        output or own("data/additional_poems.jsonl"),
        next_set,
        poets.files(),
        ShareLimits(max_synthetic=max_synthetic, max_opening=max_opening),
        copies.limits(),
        list_file,
    )
    show(text)
    return None


@app.command()
def train(folder: _Round = None) -> None:
    """Train the new adapter of a round."""
    _run("train", folder)


@app.command(epilog=RULE)
@grouped
def compare(
    poets: PoetFlags,
    sides: Annotated[
        list[Path] | None,
        typer.Argument(
            show_default="the step of the round", help="Poems, one file for each adapter."
        ),
    ] = None,
    output: Annotated[
        Path, typer.Option("-o", "--output", help="All poems, in mixed order.")
    ] = Path("compare.jsonl"),
    numbers: Annotated[
        Path | None, typer.Option(show_default="OUTPUT.numbers.json", help="File for the figures.")
    ] = None,
    adapters_folder: Annotated[
        Path | None,
        typer.Option(
            show_default="adapters", help="Where the adapters' valid losses are recorded."
        ),
    ] = None,
    folder: _Round = None,
) -> None:
    """Mix the old adapter's poems with the new one's, to be read blind, and measure both."""
    if not sides:
        return _run("compare", folder)
    from verse_clients.refine import commands

    figures = numbers or output.with_suffix(".numbers.json")
    adapters = adapters_folder or found("adapters")
    show(commands.run_compare(sides, output, figures, poets.files(), adapters))
    return None


def _round(folder: Path | None) -> Path:
    """The round that is meant; the newest one is worked on from the folder that has it."""
    from verse_clients.refine import rounds

    if folder is None:
        rounds.work_from(own("rounds").parent, show)
    return folder or rounds.newest_round()


def _run(step: str, folder: Path | None) -> None:
    from verse_clients.refine import rounds
    from verse_clients.refine.runner import Program

    rounds.run_one(_round(folder), step, Program(), show)
