"""`verse report`: how the rounds fare, as a page and as tables.

Nothing heavy is imported before the command runs: `verse --help` loads this module.
"""

from pathlib import Path
from typing import Annotated

import typer

from verse.folders import own
from verse.terminal import show

app = typer.Typer(add_completion=False, pretty_exceptions_show_locals=False, rich_markup_mode=None)


@app.command()
def report(
    paths: Annotated[
        list[Path] | None,
        typer.Argument(
            show_default="rounds",
            help="Rounds, a folder of rounds, or files of decisions, oldest first.",
        ),
    ] = None,
    output: Annotated[
        Path, typer.Option("-o", "--output", help="The page; tables go beside it as .md.")
    ] = Path("report.html"),
    training: Annotated[
        list[Path] | None,
        typer.Option(
            show_default="what the round's plan says", help="The poet's own poems, to compare with."
        ),
    ] = None,
) -> None:
    """Tell what was accepted, which checkpoint is best, and whether the poems narrow."""
    from verse_clients.refine import rounds
    from verse_clients.refine.files import write_file
    from verse_clients.report import pages
    from verse_clients.report.figures import figures
    from verse_clients.report.gather import gather

    from_elsewhere = output.absolute(), [path.absolute() for path in training or ()]
    if not paths and rounds.work_from(own("rounds").parent, show):
        output, training = from_elsewhere
    found = figures(gather(paths or [rounds.ROUNDS], training or []))
    text = pages.markdown(found)
    write_file(output, pages.html(found).encode())
    write_file(output.with_suffix(".md"), text.encode())
    show(text)
    show(f"{output} has this with plots.")
