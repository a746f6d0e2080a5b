"""`verse curate POEMS`: open the window. `verse curate export`: write what the decisions become.

Nothing heavy is imported before a command runs: `verse --help` loads this module.
"""

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from verse.folders import RULE
from verse.records import OrderName
from verse.terminal import counted, show
from verse_clients.curate import Appearance, CurateError


class _OpensByDefault(TyperGroup):
    """Takes what is not the name of a command for a file to open."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        known = {*self.commands, *ctx.help_option_names}
        if args and args[0] not in known:
            args = ["open", *args]
        return super().parse_args(ctx, args)

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        options, *_ = super().collect_usage_pieces(ctx)
        return [options, "POEMS... | COMMAND [ARGS]..."]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Those of `open`, which is the command that has no name on the command line."""
        self.commands["open"].format_options(ctx, formatter)
        self.format_commands(ctx, formatter)


_Order = Annotated[
    OrderName | None,
    typer.Option(
        show_default="as last time; shuffled if the file's order tells scores or sources",
        help="Order of the queue.",
    ),
]
_Keymap = Annotated[
    Path | None, typer.Option(help="A TOML file with your own keys.", show_default=False)
]
_BaseUrl = Annotated[
    str | None,
    typer.Option(envvar="OPENAI_BASE_URL", help="The server that `g` asks for more poems."),
]
_ApiKey = Annotated[
    str | None, typer.Option(envvar="OPENAI_API_KEY", help="Its API key, if it needs one.")
]
_Model = Annotated[
    str | None,
    typer.Option(show_default="the poem's own adapter", help="The model that `g` asks."),
]

app = typer.Typer(
    cls=_OpensByDefault,
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
    rich_markup_mode=None,
    help="Accept, reject and edit poems by keyboard: `verse curate poems.jsonl`.",
    epilog=RULE,
)


@app.command("open", epilog=RULE)
def open_window(
    poems: Annotated[
        list[Path],
        typer.Argument(help="Files of verse generate, verse judge or the original project."),
    ],
    decisions: Annotated[
        Path | None,
        typer.Option(show_default="decisions.jsonl beside the poems", help="The journal."),
    ] = None,
    order: _Order = None,
    training: Annotated[
        list[Path] | None,
        typer.Option(
            show_default="data/poems.jsonl if it is there",
            help="Your own poems; copies of them are flagged.",
        ),
    ] = None,
    show_source: Annotated[
        bool, typer.Option("--show-source", help="Show adapter, checkpoint and score at once.")
    ] = False,
    keymap: _Keymap = None,
    base_url: _BaseUrl = None,
    api_key: _ApiKey = None,
    model: _Model = None,
    appearance: Annotated[
        Appearance | None, typer.Option(show_default="as last time", help="Light or dark.")
    ] = None,
    type_percent: Annotated[
        int | None,
        typer.Option("--type", min=50, max=300, help="Font size in percent."),
    ] = None,
) -> None:
    """Open the window (this is what `verse curate POEMS` does)."""
    from verse_clients.curate.app import make_more, open_app
    from verse_clients.curate.keymap import read_keymap
    from verse_clients.generate.inputs import read_training, usual_training
    from verse_clients.screening import Inspector

    run = _view()
    journal = decisions or poems[0].with_name("decisions.jsonl")
    inspector = Inspector(read_training(usual_training() if training is None else training))
    app = open_app(poems, journal, read_keymap(keymap), order=order, show_source=show_source)
    app.inspector = inspector
    app.more = make_more(app, base_url, api_key, model)
    unsaved = run(app, appearance=appearance, type_percent=type_percent)
    if unsaved:
        raise CurateError(f"{journal} could not be written; {counted(unsaved, 'decision')} lost.")
    if app.journal.recovered is not None:
        raise CurateError(app.journal.recovered)


@app.command()
def export(
    decisions: Annotated[Path, typer.Option("-i", "--decisions", help="The journal.")] = Path(
        "decisions.jsonl"
    ),
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", show_default="beside the journal", help="A folder."),
    ] = None,
    kinds: Annotated[
        str, typer.Option("--what", help="Some of sft, pairs, rejected, list, chapbook.")
    ] = "sft,pairs,rejected,list,chapbook",
    poems: Annotated[
        list[Path] | None,
        typer.Option(
            show_default="those opened last",
            help="A list of the original project; every row of it is written back.",
        ),
    ] = None,
) -> None:
    """Write training rows, preference pairs, rejected poems, the original list and a book."""
    from verse.decision_journal import read_journal
    from verse_clients.curate.app import export_folder
    from verse_clients.curate.store import read_state
    from verse_clients.decisions import exports

    chosen = [kind.strip() for kind in kinds.split(",") if kind.strip()]
    for kind in chosen:
        if kind not in exports.KINDS:
            raise CurateError(
                f"There is no export {kind!r}; the exports are {', '.join(exports.KINDS)}."
            )
    entries = read_journal(decisions)
    files = poems or map(Path, read_state(decisions).poems)
    for path in exports.export(entries, output or export_folder(decisions), chosen, files):
        show(path)


@app.command()
def keys(
    keymap: _Keymap = None,
) -> None:
    """Print all keys as a TOML file, as a start for your own."""
    from verse_clients.curate.keymap import read_keymap, to_toml

    show(to_toml(read_keymap(keymap)).rstrip("\n"))


def _view() -> Any:
    """The window's `run`; Python can be built without a window toolkit."""
    try:
        from verse_clients.curate.view import run
    except ModuleNotFoundError as error:
        if error.name not in ("tkinter", "_tkinter"):
            raise
        raise CurateError(
            "This Python has no tkinter; on Debian install python3-tk, with Homebrew python-tk."
        ) from error
    return run
