"""The options of every command that asks a server, as its help tells them."""

from typing import Annotated, Any

import typer

from verse_clients.option_groups import Options

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


class Pace(Options):
    """How long a server is waited for."""

    wait: Annotated[
        float,
        typer.Option("--wait", min=0, help="Seconds to wait for a server that is away or busy."),
    ] = 3600
    timeout: Annotated[float, typer.Option("--timeout", min=1, help="Seconds for one answer.")] = (
        600
    )


def requests_at_once(local: int, remote: int) -> Any:
    """The option for requests at once, whose default depends on where the server is."""
    return typer.Option(
        "--concurrency",
        min=1,
        show_default=f"{local} on this machine, else {remote}",
        help="Requests at once.",
    )
