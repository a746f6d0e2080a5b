"""`verse data`: from a pile of texts to rows that can be learned.

Nothing heavy is imported before a command runs: `verse --help` loads this module.
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from verse.folders import RULE, found, own
from verse.prompt import POEM_SYSTEM
from verse_trainer.config import TrainConfig
from verse_trainer.errors import DataSetError

if TYPE_CHECKING:
    from verse_trainer.data_set.importing import Doubt, Survey

_DEFAULTS = TrainConfig()
_POEMS = "data/poems.jsonl"
_USER_MISTAKE = 2

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
    rich_markup_mode=None,
    help="From a pile of texts to rows that can be learned: import, check, split.",
)


@app.command("import", epilog=RULE)
def import_(
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE|FOLDER...",
            help="Text, Markdown, Word, RTF, HTML, EPUB, CSV, JSON, chats, zip files; folders.",
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", show_default=_POEMS, help="The file of poems they are added to."
        ),
    ] = None,
    replace: Annotated[
        bool,
        typer.Option("--replace", help="Begin a new file; one that is there is set aside."),
    ] = False,
    yes: Annotated[
        bool,
        typer.Option("-y", "--yes", help="Import what was found in a folder without asking."),
    ] = False,
    doubtful: Annotated[
        bool,
        typer.Option("--doubtful", help="Take what would be asked about, too."),
    ] = False,
    unreviewed: Annotated[
        bool,
        typer.Option("--unreviewed", help="Take what a model wrote and nobody decided about, too."),
    ] = False,
    encoding: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", show_default="found out", help="Of the files: gb18030, big5, utf-16."
        ),
    ] = None,
    theme_column: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Of a table: its name or number.")
    ] = None,
    text_column: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="The column of the poems.")
    ] = None,
    sender: Annotated[
        str | None, typer.Option(metavar="NAME", help="The poet, in a chat of several people.")
    ] = None,
) -> None:
    """Add poems to a file of poems; none is lost, and none is there twice.

    What is in a folder or a zip file is shown first, and imported when you say so.
    """
    from verse.poem_files import ReadOptions
    from verse_trainer.data_set import printing
    from verse_trainer.data_set.importing import import_poems, survey

    output = own(_POEMS) if output is None else output
    options = ReadOptions(
        encoding=encoding, theme_column=theme_column, text_column=text_column, sender=sender
    )
    held = survey(files, options, unreviewed=unreviewed)
    printing.print_found(held)
    held = _asked(held, output, yes=yes, doubtful=doubtful)
    report = import_poems(held, output, replace=replace)
    printing.print_import(report)
    if not report.num_read:
        raise DataSetError(f"Nothing could be imported; {output} is as it was.")


def _asked(held: "Survey", output: Path, *, yes: bool, doubtful: bool) -> "Survey":
    """What is left when the user has said what to take.

    Raises:
        DataSetError: there is nobody to ask.
        Exit: the user says no.
    """
    from verse.poem_files import counted_kind
    from verse_trainer.data_set import printing

    is_answered = yes or not _is_terminal()
    left: list[Doubt] = []
    for doubt in [] if doubtful else held.doubts:
        printing.print_doubt(doubt)
        if is_answered or not typer.confirm("Take them?"):
            left.append(doubt)
    held = held.without(left)
    printing.print_left(left)
    num_poems = sum(len(file.taken) for file in held.files)
    if yes or not held.is_mixed or not num_poems:
        return held
    if not _is_terminal():
        raise DataSetError(
            "Nothing was imported, for there is no terminal to ask at; "
            "say --yes to import what is shown above."
        )
    if not typer.confirm(f"Add {counted_kind(num_poems, 'poems')} to {output}?", default=True):
        raise typer.Exit
    return held


def _is_terminal() -> bool:
    return sys.stdin.isatty() and sys.stdout.isatty()


@app.command(epilog=RULE)
def check(
    path: Annotated[
        Path | None,
        typer.Argument(
            metavar="FILE|FOLDER", show_default=_DEFAULTS.data, help="A data folder or one file."
        ),
    ] = None,
    model: Annotated[
        str, typer.Option(help="The base model: a folder or a Hugging Face id.")
    ] = _DEFAULTS.model,
    batch_size: Annotated[
        int, typer.Option(min=1, help="As for training, for --mlx-lm.")
    ] = _DEFAULTS.batch_size,
    max_seq_length: Annotated[
        int, typer.Option(min=1, help="As for training, in tokens.")
    ] = _DEFAULTS.max_seq_length,
    for_mlx_lm: Annotated[
        bool,
        typer.Option("--mlx-lm", help="Name also what mlx_lm.lora would leave out; we do not."),
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="For machines: all of it.")] = False,
    all_: Annotated[bool, typer.Option("--all", help="Name every place.")] = False,
) -> None:
    """Say what is wrong with a data set, by file and line; exit code 2 if it cannot be used."""
    from verse_trainer.data_set import printing
    from verse_trainer.data_set.checking import check_data

    path = found(_DEFAULTS.data) if path is None else path
    report = check_data(
        path,
        model,
        batch_size=batch_size,
        max_seq_length=max_seq_length,
        for_mlx_lm=for_mlx_lm,
    )
    if json:
        printing.print_json(report)
    else:
        printing.print_check(report, show_all=all_)
    if report.num_errors:
        raise typer.Exit(_USER_MISTAKE)


@app.command(epilog=RULE)
def split(
    poems: Annotated[
        Path | None,
        typer.Argument(metavar="FILE|FOLDER", show_default=_POEMS, help="The file of poems."),
    ] = None,
    share: Annotated[
        float,
        typer.Option(min=0.01, max=0.5, help="Of the poems, kept for validation."),
    ] = 0.12,
    seed: Annotated[int, typer.Option(help="Another one draws other poems.")] = 0,
    system: Annotated[
        str, typer.Option(help="The system message of every row.", show_default="the poem prompt")
    ] = POEM_SYSTEM,
    no_system: Annotated[
        bool, typer.Option("--no-system", help="Rows without a system message.")
    ] = False,
) -> None:
    """Freeze which poems validate (split.json); write train.jsonl and valid.jsonl beside it."""
    from verse_trainer.data_set import printing
    from verse_trainer.data_set.importing import POEMS_FILE
    from verse_trainer.data_set.splitting import split_poems

    poems = own(_POEMS) if poems is None else poems
    poems = poems / POEMS_FILE if poems.is_dir() else poems
    report = split_poems(poems, share, seed, None if no_system else system)
    printing.print_split(report, poems, asked=(share, seed))
