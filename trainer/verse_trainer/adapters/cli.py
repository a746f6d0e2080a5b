"""`verse adapters`: look after the adapters folder.

Nothing heavy is imported before a command runs: `verse --help` loads this module.
"""

import time
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import typer

from verse import terminal
from verse.folders import EMBEDDED_BASE, RULE, found, own
from verse.prompt import FormatName, PromptFormat
from verse_trainer.errors import AdapterError

_ADAPTERS = "adapters"
AdaptersOption = Annotated[
    Path | None,
    typer.Option(
        envvar="VERSE_ADAPTERS",
        show_default=_ADAPTERS,
        help="The folder with one folder per adapter.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
    rich_markup_mode=None,
    help="List, compare, convert, fuse and remove adapters.",
)


@app.callback()
def prepare() -> None:
    """List, compare, convert, fuse and remove adapters."""
    from verse import openblas

    openblas.preload()  # before anything imports mlx


@app.command("list", epilog=RULE)
def list_adapters(adapters: AdaptersOption = None, as_json: JsonOption = False) -> None:
    """List the adapters, and what is wrong with those that cannot be served."""
    from verse_trainer.adapters.facts import summarize
    from verse_trainer.adapters.folders import entries
    from verse_trainer.adapters.tables import list_table

    adapters = adapters or found(_ADAPTERS)
    summaries = [summarize(entry) for entry in entries(adapters)]
    if as_json:
        _print_json(summaries)
    elif summaries:
        terminal.wide_console().print(list_table(summaries, time.time()))
    else:
        terminal.show(f"There is no adapter in {adapters}.")


@app.command(epilog=RULE)
def show(
    name: Annotated[str, typer.Argument(help="NAME, or NAME@STEP to look into a checkpoint.")],
    adapters: AdaptersOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show all that is known of an adapter: origin, checkpoints, losses, layers, doubts."""
    from verse_trainer.adapters.factors import module_norms
    from verse_trainer.adapters.facts import describe
    from verse_trainer.adapters.folders import find, parse_one
    from verse_trainer.adapters.tables import show_page

    adapters, part = adapters or found(_ADAPTERS), parse_one(name)
    details = describe(find(adapters, part.name))
    norms, warnings = module_norms(adapters, part)
    details = msgspec.structs.replace(details, warnings=(*details.warnings, *warnings))
    if as_json:
        _print_json({**msgspec.structs.asdict(details), "modules": norms})
    else:
        terminal.wide_console().print(show_page(details, norms, time.time()))


@app.command("import", epilog=RULE)
def import_adapter(
    source: Annotated[Path, typer.Argument(metavar="PEFT_FOLDER", help="As PEFT writes it.")],
    name: Annotated[
        str | None, typer.Option(show_default="the folder's", help="To be served under.")
    ] = None,
    base: Annotated[
        str | None,
        typer.Option(show_default=False, help="A base it must fit; recorded instead of PEFT's."),
    ] = None,
    prompt_format: Annotated[
        FormatName | None,
        typer.Option(show_default=False, help="The frame it was trained in, for prompt.json."),
    ] = None,
    system: Annotated[
        str | None,
        typer.Option(show_default=False, help="The system message it was trained with."),
    ] = None,
    adapters: AdaptersOption = None,
) -> None:
    """Import a PEFT folder as an adapter in mlx-lm's format, and check the numbers."""
    from verse_trainer.adapters.transfer import import_folder

    given = None
    if prompt_format is not None or system is not None:
        given = PromptFormat(format=prompt_format or "chat", system=system)
    adapters = adapters or own(_ADAPTERS)
    _print_transfer(import_folder(source, adapters, name=name, base=base, prompt_format=given))


@app.command("export", epilog=RULE)
def export_adapter(
    name: Annotated[str, typer.Argument(help="NAME or NAME@STEP.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The new folder.")],
    to: Annotated[Literal["peft", "mlx"], typer.Option(help="For PEFT, or for plain mlx-lm.")],
    checkpoint: Annotated[
        str | None,
        typer.Option(show_default="the published weights", help="A step, best or last."),
    ] = None,
    base: Annotated[
        str | None,
        typer.Option(show_default="the adapter's", help="Name of the base to record."),
    ] = None,
    adapters: AdaptersOption = None,
) -> None:
    """Write an adapter as a folder for PEFT or plain mlx-lm, and check the numbers."""
    from verse_trainer.adapters.folders import choose, parse_one
    from verse_trainer.adapters.transfer import export_folder

    if checkpoint is not None and "@" in name:
        raise AdapterError(f"{name!r} names a checkpoint already; leave --checkpoint out.")
    part = parse_one(name if checkpoint is None else f"{name}@{checkpoint}")
    if part.strength != 1:
        raise AdapterError("An export has no strength; `verse adapters fuse` can apply one.")
    adapters = adapters or found(_ADAPTERS)
    _print_transfer(export_folder(choose(adapters, part), to, output, base=base))


@app.command(epilog=RULE)
def fuse(
    name: Annotated[str, typer.Argument(help="NAME, NAME@STEP, NAME:STRENGTH.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The new folder.")],
    model: Annotated[
        str, typer.Option(envvar="VERSE_MODEL", help="A model folder or a Hugging Face id.")
    ] = EMBEDDED_BASE,
    keep_quantized: Annotated[
        bool,
        typer.Option("--keep-quantized", help="Quantize again what was quantized; loses detail."),
    ] = False,
    adapters: AdaptersOption = None,
) -> None:
    """Write the base with an adapter in it, as a full model; not quantized unless you say so."""
    import_module("verse.base_model")  # before anything imports mlx-lm
    from verse_trainer.adapters.folders import choose, parse_one
    from verse_trainer.adapters.fuse import fuse as write

    chosen = choose(adapters or found(_ADAPTERS), parse_one(name))
    fused = write(chosen, model, output, keep_quantized=keep_quantized)
    terminal.show(f"{fused.target}: {terminal.counted(fused.num_modules, 'layer')} changed.")
    terminal.show(f"Self-check: rounding took {fused.lost:.1%} of what the adapter does.")


@app.command(epilog=RULE)
def remove(
    name: Annotated[str, typer.Argument(help="NAME, or NAME@STEP for one checkpoint.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    adapters: AdaptersOption = None,
) -> None:
    """Move an adapter or a checkpoint into the trash folder beside the adapters."""
    from datetime import datetime

    from verse_trainer.adapters.folders import move_to_trash, parse_one, removable

    adapters = adapters or own(_ADAPTERS)
    path = removable(adapters, parse_one(name))
    if not yes and not _confirmed(f"Move {path} to the trash?"):
        terminal.show("Nothing was removed.")
        return
    terminal.show(f"Moved to {move_to_trash(adapters, path, datetime.now().astimezone())}")


def _confirmed(question: str) -> bool:
    try:
        return typer.confirm(question)
    except typer.Abort:
        raise AdapterError(
            "Nothing was removed: there was no answer; --yes removes without asking."
        ) from None


def _print_transfer(transfer: Any) -> None:
    terminal.show(
        f"{transfer.target}: {terminal.counted(transfer.num_modules, 'module')}, "
        f"rank {transfer.rank}, scale {transfer.scale:g}."
    )
    agreement = f"to {transfer.difference:.0e}" if transfer.difference else "exactly"
    terminal.show(f"Self-check: on random input both sides agree {agreement}.")
    for note in transfer.notes:
        terminal.show(f"{note}.")
    if not transfer.has_prompt_format:
        terminal.show("No prompt format is recorded; the server will assume chat.")


def _print_json(value: object) -> None:
    terminal.show_json(value, indent=1)
