"""Which names lead to an adapter, and that none leads out of the adapters folder."""

from pathlib import Path
from typing import Any

import pytest

from tests.server.engine.fixtures_files import (
    BASE_MODULES,
    checkpoint,
    digest,
    names,
    not_found,
    refusal,
    write_adapter,
)
from verse.adapter_files import plan_adapter
from verse_server.engine.adapters.registry import AdapterRegistry

WEIGHTS = "adapters.safetensors"


@pytest.mark.parametrize(
    ("asked", "nearest"),
    [
        ("xuzhimo2", ("xuzhimo",)),
        ("XUZHIMO", ("xuzhimo",)),
        ("hushih", ("hushi",)),
        ("verse-tin", ("verse-tiny",)),
        ("libai", ()),
        ("README.md", ()),
    ],
)
def test_an_unknown_name_is_told_its_nearest(
    registry: AdapterRegistry, asked: str, nearest: tuple[str, ...]
) -> None:
    error = not_found(registry, asked)
    assert (error.name, error.nearest[:1]) == (asked, nearest)


def test_nearest_names_are_found_before_anybody_has_listed_the_folder(root: Path) -> None:
    fresh = AdapterRegistry(root, "verse-tiny", BASE_MODULES)
    assert not_found(fresh, "hushi2").nearest == ("hushi",)


def test_nearest_names_come_as_they_are_written(registry: AdapterRegistry, root: Path) -> None:
    write_adapter(root / "LiBai")
    assert not_found(registry, "libai").nearest == ("LiBai",)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Files whose content was read, since a test has cleared the list."""
    files: list[Path] = []
    read_bytes, path_open = Path.read_bytes, Path.open

    def spy_read(self: Path) -> bytes:
        files.append(self)
        return read_bytes(self)

    def spy_open(self: Path, *args: Any, **kwargs: Any) -> Any:
        files.append(self)
        return path_open(self, *args, **kwargs)

    def spy_plan(file: Path, *args: Any) -> Any:
        files.append(file)
        return plan_adapter(file, *args)

    monkeypatch.setattr(Path, "read_bytes", spy_read)
    monkeypatch.setattr(Path, "open", spy_open)
    monkeypatch.setattr("verse_server.engine.adapters.version_reading.plan_adapter", spy_plan)
    return files


def was_opened(opened: list[Path], folder: Path) -> bool:
    return any(file.resolve().is_relative_to(folder.resolve()) for file in opened)


@pytest.mark.parametrize(
    "name",
    [
        "../secret",
        "..",
        ".",
        "",
        "xuzhimo/../../secret",
        "xuzhimo/../hushi",
        "xuzhimo/",
        "./xuzhimo",
        "xuzhimo\0",
        "xuzhimo\ud800",
        "..\\secret",
        "x" * 5000,
        "/",
        "absolute",
    ],
)
def test_no_spelling_leads_out_of_the_folder(
    registry: AdapterRegistry, root: Path, opened: list[Path], name: str
) -> None:
    secret = write_adapter(root.parent / "secret")
    registry.models()
    opened.clear()
    not_found(registry, str(secret) if name == "absolute" else name)
    assert opened == []
    assert names(registry) == ["hushi", "xuzhimo"]


def test_a_folder_that_is_a_link_out_is_not_found_and_never_opened(
    registry: AdapterRegistry, root: Path, opened: list[Path]
) -> None:
    secret = write_adapter(root.parent / "secret")
    (root / "link").symlink_to(secret)
    (root / "relative").symlink_to("../secret")
    opened.clear()
    for name in ("link", "relative"):
        not_found(registry, name)
    assert names(registry) == ["hushi", "xuzhimo"]
    assert not was_opened(opened, secret)


@pytest.mark.parametrize("name", [WEIGHTS, "adapter_config.json", "prompt.json", "notes.txt"])
def test_a_folder_with_a_link_out_is_not_found_and_nothing_behind_it_is_opened(
    registry: AdapterRegistry, root: Path, opened: list[Path], name: str
) -> None:
    secret = write_adapter(root.parent / "secret")
    (secret / "notes.txt").write_text("secret")
    folder = write_adapter(root / "linked")
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(secret / name)
    opened.clear()
    not_found(registry, "linked")
    assert names(registry) == ["hushi", "xuzhimo"]
    assert not was_opened(opened, secret)


def test_a_file_replaced_by_a_link_out_takes_the_adapter_away(
    registry: AdapterRegistry, root: Path, opened: list[Path]
) -> None:
    secret = write_adapter(root.parent / "secret")
    assert digest(registry, "xuzhimo")
    (root / "xuzhimo" / WEIGHTS).unlink()
    (root / "xuzhimo" / WEIGHTS).symlink_to(secret / WEIGHTS)
    opened.clear()
    not_found(registry, "xuzhimo")
    assert not was_opened(opened, secret)


def test_a_folder_replaced_by_a_link_out_takes_the_adapter_away(
    registry: AdapterRegistry, root: Path, opened: list[Path]
) -> None:
    assert digest(registry, "xuzhimo")
    (root / "xuzhimo").rename(root.parent / "moved")
    (root / "xuzhimo").symlink_to(root.parent / "moved")
    opened.clear()
    not_found(registry, "xuzhimo")
    assert not was_opened(opened, root.parent / "moved")


def test_a_link_between_files_inside_the_folder_is_fine(
    registry: AdapterRegistry, root: Path
) -> None:
    checkpoint(root / "xuzhimo", 100, seed=7)
    (root / "xuzhimo" / WEIGHTS).unlink()
    (root / "xuzhimo" / WEIGHTS).symlink_to("0000100_adapters.safetensors")
    assert digest(registry, "xuzhimo") == digest(registry, "xuzhimo", 100)


def test_the_adapters_folder_itself_may_be_a_link(root: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(root)
    assert names(AdapterRegistry(tmp_path / "link", "verse-tiny", BASE_MODULES)) == [
        "hushi",
        "xuzhimo",
    ]


def test_links_in_a_circle_and_links_to_nothing_stop_nobody(
    registry: AdapterRegistry, root: Path
) -> None:
    (root / "circle").symlink_to(root / "circle")
    (root / "nothing").symlink_to(root / "gone")
    (root / "xuzhimo" / "circle").symlink_to(root / "xuzhimo" / "circle")
    (root / "xuzhimo" / "0000300_adapters.safetensors").symlink_to(root / "gone")
    assert names(registry) == ["hushi", "xuzhimo"]
    for name in ("circle", "nothing"):
        not_found(registry, name)
    assert registry.warnings() == []


@pytest.mark.parametrize("name", ["base", "verse-tiny"])
def test_an_adapter_with_the_name_of_the_base_is_refused_not_shadowed(
    registry: AdapterRegistry, root: Path, name: str
) -> None:
    write_adapter(root / name)
    assert "rename the folder" in refusal(registry, name)
    assert names(registry) == ["hushi", "xuzhimo"]
