"""One rule says where models/, adapters/ and data/ are."""

from pathlib import Path

import pytest

from verse import folders
from verse.folders import EMBEDDED_BASE, HomeError, found, located_model, own


@pytest.fixture(autouse=True)
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where Verse is installed from, and a command run in an empty folder elsewhere."""
    monkeypatch.delenv("VERSE_HOME", raising=False)
    made = tmp_path / "installed"
    for name in (EMBEDDED_BASE, "adapters", "data"):
        (made / name).mkdir(parents=True)
    (tmp_path / "elsewhere" / "2026" / "spring").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.setattr(folders, "_INSTALLED", made)
    return made


def test_where_nobody_has_a_folder_the_installed_one_is_read(installed: Path) -> None:
    assert found("data/poems.jsonl") == installed / "data" / "poems.jsonl"


def test_what_is_written_never_goes_to_the_installed_one() -> None:
    assert own("data/poems.jsonl") == Path("data/poems.jsonl")


@pytest.mark.parametrize("look", [found, own])
def test_the_nearest_folder_above_is_taken_for_reading_and_for_writing(
    look: type[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("data").mkdir()
    home = Path.cwd()
    assert look("data/poems.jsonl") == Path("data/poems.jsonl")
    monkeypatch.chdir("2026/spring")
    assert look("data/poems.jsonl") == home / "data" / "poems.jsonl"
    Path("data").mkdir()
    assert look("data") == Path("data")


def test_the_folder_decides_and_not_the_file_in_it() -> None:
    Path("data").mkdir()
    assert found("data/themes.txt") == Path("data/themes.txt")


def test_verse_home_comes_first_and_has_what_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    (home / "adapters").mkdir(parents=True)
    Path("adapters").mkdir()
    monkeypatch.setenv("VERSE_HOME", str(home))
    assert found("adapters") == own("adapters") == home / "adapters"
    assert own("data") == home / "data"


def test_what_verse_home_lacks_is_read_further_on(
    installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VERSE_HOME", str(tmp_path))
    assert located_model(EMBEDDED_BASE) == str(installed / EMBEDDED_BASE)


def test_a_verse_home_that_is_no_folder_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VERSE_HOME", "nowhere")
    with pytest.raises(HomeError, match=r"^VERSE_HOME is nowhere, which is no folder; "):
        found("data")


@pytest.mark.parametrize("name", ["owner/name", "models/unknown", "/models/x", "somewhere", ""])
def test_a_model_that_the_rule_does_not_find_stays_as_it_was_named(name: str) -> None:
    assert located_model(name) == name


def test_a_model_that_is_there_is_not_looked_for() -> None:
    Path(EMBEDDED_BASE).mkdir(parents=True)
    assert located_model(EMBEDDED_BASE) == EMBEDDED_BASE


def test_a_folder_that_was_removed_under_the_command_is_no_crash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert own("data") == Path("data")
