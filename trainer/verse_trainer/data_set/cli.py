"""`verse data`: from a pile of texts to rows that can be learned.

Nothing heavy is imported before a command runs: `verse --help` loads this module.
"""

from pathlib import Path
from typing import Annotated

import typer

from verse.folders import RULE, found, own
from verse.prompt import POEM_SYSTEM
from verse_trainer.config import TrainConfig
from verse_trainer.errors import DataSetError

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
            metavar="FILE...", help="Text, Markdown, JSON, JSON Lines; or folders of them."
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
) -> None:
    """Add poems to a file of poems; none is lost, and none is there twice."""
    from verse_trainer.data_set import printing
    from verse_trainer.data_set.importing import import_poems

    output = own(_POEMS) if output is None else output
    report = import_poems(files, output, replace=replace)
    printing.print_import(report)
    if not report.num_read:
        raise DataSetError(f"Nothing could be imported; {output} is as it was.")


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
