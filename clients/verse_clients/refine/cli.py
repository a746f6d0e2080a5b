"""`verse refine`: the round from writing to the next adapter, step by step.

Nothing heavy is imported before a command runs: `verse --help` loads this module.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from verse.terminal import show
from verse_clients.options import OptionGroup, grouped

if TYPE_CHECKING:
    from verse_clients.refine.commands import PoetFiles
    from verse_clients.screening import Limits

_ROUND = typer.Option("--round", show_default="the newest in rounds/", help="A round's folder.")
_Round = Annotated[Path | None, _ROUND]
_Poems = Annotated[Path, typer.Option("--poems", help="The poet's own poems.")]
_Split = Annotated[Path, typer.Option("--split", help="Which of them validate: a split.")]
_POEMS, _SPLIT = Path("data/poems.jsonl"), Path("data/split.json")
_MaxSynthetic = Annotated[
    float, typer.Option(min=0, max=0.99, help="Share of model-written poems at most.")
]


class PoetFlags(OptionGroup):
    """Where the poet's own poems are."""

    poems: _Poems = _POEMS
    split: _Split = _SPLIT
    without_split: Annotated[
        bool, typer.Option("--without-split", help="Keep no poem for validation.")
    ] = False

    def files(self) -> "PoetFiles":
        """The files to read."""
        from verse_clients.refine.commands import PoetFiles

        return PoetFiles(poems=self.poems, split=None if self.without_split else self.split)


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
    themes: Annotated[Path, typer.Option(help="A file with one theme a line.")] = Path(
        "data/themes.txt"
    )
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
        typer.Option(show_default="none", help="A model that ranks the poems; repeat it for more."),
    ] = None
    base_url: Annotated[
        str | None, typer.Option(show_default="as verse generate", help="The server's address.")
    ] = None
    preset: Annotated[str, typer.Option(help="What to train with, as in verse train -c.")] = (
        "verse-tiny"
    )
    poems: _Poems = _POEMS
    split: _Split = _SPLIT
    max_synthetic: _MaxSynthetic = 0.5


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


@app.command()
@grouped
def start(flags: StartFlags) -> None:
    """Start a round: write its plan, which you can edit before a step runs."""
    from verse_clients.refine import rounds
    from verse_clients.refine.plan import JudgePlan, Plan

    names = tuple(part.strip() for part in flags.adapters.split(",") if part.strip())
    default = f"{names[0]}-r{rounds.next_number():02}" if names else ""
    plan = Plan(
        adapters=names,
        new_adapter=f"adapters/{flags.name or default}",
        themes=str(flags.themes),
        variants=str(flags.variants or ""),
        checkpoints=flags.checkpoints,
        samples=flags.samples,
        judges=tuple(JudgePlan(model=model) for model in flags.judge or ()),
        base_url=flags.base_url or "",
        preset=flags.preset,
        poems=str(flags.poems),
        split=str(flags.split),
        earlier=rounds.earlier_decisions(),
        max_synthetic=flags.max_synthetic,
    )
    folder = rounds.start_round(plan)
    show(f"{folder}/plan.toml is the plan; change it as you like, then run `verse refine`.")
    show(rounds.listing(rounds.look_at(folder)))


@app.command("next")
def next_steps(folder: _Round = None) -> None:
    """Run the next steps of a round, up to the one that needs you."""
    from verse_clients.refine import rounds
    from verse_clients.refine.runner import Program

    place = folder or rounds.newest_round()
    waiting = rounds.advance(place, Program(), show)
    show(rounds.invitation(waiting.step) if waiting else rounds.farewell(place))


@app.command()
def status(folder: _Round = None) -> None:
    """Show the state of each step of a round, and the commands it runs."""
    from verse_clients.refine import rounds

    place = folder or rounds.newest_round()
    show(place)
    show(rounds.listing(rounds.look_at(place)))


@app.command()
def generate(folder: _Round = None) -> None:
    """Let the adapters write the poems of a round."""
    _run("generate", folder)


@app.command("filter")
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


@app.command()
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
    output: Annotated[Path, typer.Option("-o", "--output", help="The poems to learn from.")] = Path(
        "data/additional_poems.jsonl"
    ),
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
        output,
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


@app.command()
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
        Path, typer.Option(help="Where the adapters' valid losses are recorded.")
    ] = Path("adapters"),
    folder: _Round = None,
) -> None:
    """Mix the old adapter's poems with the new one's, to be read blind, and measure both."""
    if not sides:
        return _run("compare", folder)
    from verse_clients.refine import commands

    figures = numbers or output.with_suffix(".numbers.json")
    show(commands.run_compare(sides, output, figures, poets.files(), adapters_folder))
    return None


def _run(step: str, folder: Path | None) -> None:
    from verse_clients.refine import rounds
    from verse_clients.refine.runner import Program

    rounds.run_one(folder or rounds.newest_round(), step, Program(), show)
