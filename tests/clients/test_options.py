"""A command takes groups; its command line has their fields, with all that Typer knows of them."""

from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from verse_clients.options import OptionGroup, flag, grouped


class Meal(OptionGroup):
    dish: Annotated[str, flag("What is eaten.", "-d")] = "rice"
    guests: Annotated[list[str] | None, flag("Who eats.", "--guest")] = None


class Place(OptionGroup):
    table: Annotated[int, flag("Where.", min=1)] = 4
    is_warm: Annotated[bool, flag("With a fire.")] = False


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


def test_a_flag_is_called_like_its_field_unless_it_has_a_long_name_of_its_own() -> None:
    command = typer.main.get_command(app)
    names = {param.name: param.opts for param in command.params}
    assert names["dish"] == ["-d", "--dish"]
    assert names["guests"] == ["--guest"]
    assert names["table"] == ["--table"]
    assert names["is_warm"] == ["--is-warm"]
