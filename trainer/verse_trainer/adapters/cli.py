"""`verse adapters`: look at adapters, compare them, bring them in, send them out.

Nothing heavy is imported before a command runs: `verse --help` loads this module.
"""

from pathlib import Path
from typing import Annotated, Literal

import typer

from verse.prompt import FormatName

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
    rich_markup_mode=None,
    help="List, compare, import, export, fuse and remove adapters.",
)

Adapters = Annotated[
    Path, typer.Option(envvar="VERSE_ADAPTERS", help="The folder with one folder per adapter.")
]
Spelling = Annotated[str, typer.Argument(help="NAME, or NAME@STEP, NAME@best, NAME@last.")]
_HERE = Path("adapters")


@app.command("list")
def list_adapters(
    adapters: Adapters = _HERE,
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """List every adapter with its rank, scale, checkpoints and loss."""
    from rich.console import Console

    from verse_trainer.adapters.display import show_list
    from verse_trainer.adapters.listing import summaries

    found = summaries(adapters)
    if as_json:
        _print_json(found)
    else:
        show_list(Console(), found)


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="Of the adapter.")],
    adapters: Adapters = _HERE,
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """Show all that is known of one adapter."""
    from rich.console import Console

    from verse_trainer.adapters.display import show_details
    from verse_trainer.adapters.listing import details
    from verse_trainer.adapters.names import find_folder

    found = details(find_folder(adapters, name))
    if as_json:
        norms = {module: factors.delta_norm for module, factors in found.modules.items()}
        record = {key: getattr(found, key) for key in found.__struct_fields__}
        _print_json(record | {"modules": norms})
    else:
        show_details(Console(), found)


@app.command()
def compare(
    models: Annotated[list[str], typer.Argument(help="Two or more, as in a request's `model`.")],
    themes: Annotated[
        str, typer.Option(help="Parted by commas, or a file with one a line.")
    ] = "河,母亲,灯",
    n: Annotated[int, typer.Option("-n", min=1, help="Poems of each on each theme.")] = 1,
    seed: Annotated[int, typer.Option(help="Of the first poem; all models share it.")] = 0,
    temperature: Annotated[
        float | None, typer.Option(min=0, max=2, show_default="the server's own")
    ] = None,
    base_url: Annotated[
        str | None,
        typer.Option(envvar="OPENAI_BASE_URL", show_default="http://127.0.0.1:8000/v1"),
    ] = None,
    api_key: Annotated[
        str | None, typer.Option(envvar="OPENAI_API_KEY", show_default=False)
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Also write Markdown to this file.")
    ] = None,
) -> None:
    """Print poems of several adapters of a running server side by side."""
    from rich.console import Console

    from verse.atomic_file import replace_file
    from verse_trainer.adapters.compare import (
        PoemServer,
        Written,
        as_markdown,
        read_themes,
        write_all,
    )
    from verse_trainer.adapters.display import show_written

    console = Console()
    server = PoemServer(base_url, api_key)
    found = read_themes(themes)
    written: list[Written] = []
    for entry in write_all(server, models, found, n=n, seed=seed, temperature=temperature):
        show_written(console, models, entry)
        written.append(entry)
    server.close()
    if output is not None:
        replace_file(output, [as_markdown(models, written).encode()])


@app.command("import")
def import_peft(
    folder: Annotated[Path, typer.Argument(help="An adapter folder as PEFT writes it.")],
    adapters: Adapters = _HERE,
    name: Annotated[
        str | None, typer.Option(show_default="the folder's own", help="Of the new adapter.")
    ] = None,
    prompt_format: Annotated[
        FormatName | None, typer.Option(show_default=False, help="It was trained in.")
    ] = None,
    system: Annotated[
        str | None, typer.Option(show_default=False, help="The system message it was trained with.")
    ] = None,
) -> None:
    """Bring in an adapter from PEFT, and check on random input that it does the same."""
    from verse.prompt import PromptFormat
    from verse_trainer.adapters.exchange import import_adapter

    given = prompt_format is not None or system is not None
    recorded = PromptFormat(format=prompt_format or "chat", system=system) if given else None
    output, difference, kept = import_adapter(folder, adapters, name, recorded)
    print(f"{output}: updates agree to {difference:.1e} on random input.")
    if kept is None:
        print("No prompt format is recorded; tell it with --prompt-format and --system.")


@app.command()
def export(
    adapter: Spelling,
    output: Annotated[Path, typer.Option("-o", "--output", help="A new folder.")],
    to: Annotated[Literal["peft", "mlx"], typer.Option(help="Whose layout to write.")] = "peft",
    adapters: Adapters = _HERE,
) -> None:
    """Write an adapter as a folder for PEFT or mlx-lm, and check that it does the same."""
    from verse_trainer.adapters.exchange import export_adapter
    from verse_trainer.adapters.names import choose

    difference = export_adapter(choose(adapters, adapter), output, to)
    print(f"{output}: updates agree to {difference:.1e} on random input.")


@app.command()
def fuse(
    adapter: Annotated[str, typer.Argument(help="NAME[@STEP][:STRENGTH].")],
    output: Annotated[Path, typer.Option("-o", "--output", help="A new folder.")],
    model: Annotated[
        str, typer.Option(envvar="VERSE_MODEL", help="A model folder or a Hugging Face id.")
    ] = "models/verse-tiny",
    adapters: Adapters = _HERE,
    keep_quantized: Annotated[
        bool, typer.Option("--keep-quantized", help="Quantize the result as the base was.")
    ] = False,
) -> None:
    """Write base and adapter as one model, and check that it computes the same."""
    from verse_trainer.adapters.fuse import fuse_adapter
    from verse_trainer.adapters.names import choose

    chosen = choose(adapters, adapter)
    difference = fuse_adapter(chosen, model, output, keep_quantized=keep_quantized)
    print(f"{output}: logits agree to {difference:.1e}; serve it with `verse serve --model`.")


@app.command()
def remove(
    adapter: Annotated[str, typer.Argument(help="NAME, or NAME@STEP for one checkpoint.")],
    adapters: Adapters = _HERE,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Move an adapter or a checkpoint to the trash folder."""
    from datetime import datetime

    from verse_trainer.adapters.names import find_folder, one_part
    from verse_trainer.adapters.remove import remove as move_away

    chosen = one_part(adapter)
    find_folder(adapters, chosen.name)  # before asking
    if not yes and not typer.confirm(f"Move {chosen.spelling} to the trash folder?"):
        raise typer.Exit(1)
    print(f"Moved to {move_away(adapters, chosen, datetime.now().astimezone())}.")


def _print_json(record: object) -> None:
    import msgspec

    print(msgspec.json.format(msgspec.json.encode(record), indent=1).decode())
