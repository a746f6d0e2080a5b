"""A command takes groups; its command line has their fields, with all that Typer knows of them."""

from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from verse_clients.options import OptionGroup, grouped


class Meal(OptionGroup):
    dish: Annotated[str, typer.Option("-d", "--dish", help="What is eaten.")] = "rice"
    guests: Annotated[list[str] | None, typer.Option("--guest")] = None


class Place(OptionGroup):
    table: Annotated[int, typer.Option(min=1)] = 4


served: list[tuple[bool, Meal, Place, str]] = []
app = typer.Typer(add_completion=False)


@app.command()
@grouped
def serve(
    context: typer.Context,
    name: Annotated[str, typer.Argument()],
    meal: Meal,
    place: Place,
    loud: bool = False,
) -> None:
    """Bring the food."""
    assert context.info_name == "serve"
    served.append((loud, meal, place, name))


@pytest.mark.parametrize(
    ("words", "seen"),
    [
        (["Li"], (False, Meal(), Place(), "Li")),
        (
            ["-d", "fish", "Li", "--guest", "A", "--guest", "B", "--table", "2", "--loud"],
            (True, Meal(dish="fish", guests=["A", "B"]), Place(table=2), "Li"),
        ),
    ],
)
def test_options_come_back_in_their_groups(
    words: list[str], seen: tuple[bool, Meal, Place, str]
) -> None:
    served.clear()
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    assert served == [seen]


def test_a_field_is_checked_and_described_like_any_option() -> None:
    assert CliRunner().invoke(app, ["Li", "--table", "0"]).exit_code == 2
    told = CliRunner().invoke(app, ["--help"]).output
    assert "What is eaten." in told
    assert "Bring the food." in told
    assert "meal" not in told.lower()
