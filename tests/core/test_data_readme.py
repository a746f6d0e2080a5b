"""data/README.md says what is in the files; these tests keep it true."""

import re
from pathlib import Path

import msgspec
import pytest

from verse import records
from verse.poem_split import PoemSplit

README = Path(__file__).parents[2] / "data" / "README.md"
STRUCTS = {
    struct.__name__: struct
    for struct in vars(records).values()
    if isinstance(struct, type)
    and issubclass(struct, msgspec.Struct)
    and struct.__module__ == records.__name__
} | {PoemSplit.__name__: PoemSplit}


def sections() -> dict[str, str]:
    """Text under each second-level heading that names a record."""
    parts = re.split(r"^## (\w+)$", README.read_text("utf-8"), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def documented_fields(section: str) -> set[str]:
    first_columns = re.findall(r"^\| (`.*?) \|", section, flags=re.MULTILINE)
    return {name for column in first_columns for name in re.findall(r"`(\w+)`", column)}


def test_every_record_has_a_section() -> None:
    assert sections().keys() == STRUCTS.keys()


@pytest.mark.parametrize("name", STRUCTS)
def test_the_fields_are_those_of_the_struct(name: str) -> None:
    fields = {field.name for field in msgspec.structs.fields(STRUCTS[name])}
    assert documented_fields(sections()[name]) == fields


@pytest.mark.parametrize("name", STRUCTS)
def test_the_examples_can_be_read(name: str) -> None:
    for example in re.findall(r"```json\n(.*?)```", sections()[name], flags=re.DOTALL):
        msgspec.json.decode(example, type=STRUCTS[name])
