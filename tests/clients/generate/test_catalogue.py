"""Which adapters and checkpoints are meant."""

from pathlib import Path

import anyio
import pytest

from verse.adapter_digest import digest_at
from verse_clients.answers import ServedCheckpoint, ServedModel
from verse_clients.errors import SelectionError
from verse_clients.generate.catalogue import (
    ORIGINALS_CHECKPOINTS,
    FromStep,
    catalogue,
    check_base,
    check_folders,
    choose,
    choose_sources,
    parse_checkpoints,
    resolve_checkpoints,
)
from verse_clients.generate.plan import Source

STEPS = (200, 400, 600, 800, 1000, 1200)


def served(name: str, *steps: int, parent: str | None = "Qwen/Qwen2.5-7B") -> ServedModel:
    checkpoints = tuple(ServedCheckpoint(f"{name}@{step}", step) for step in steps)
    return ServedModel(id=name, parent=parent, root="Qwen/Qwen2.5-7B", checkpoints=checkpoints)


OURS = catalogue(
    [
        served("Qwen/Qwen2.5-7B", parent=None),
        served("hushi", *STEPS),
        served("young@60", parent="young"),
        served("young@30", parent="young"),
        served("plain"),
    ]
)
FOREIGN = catalogue([ServedModel(id="gpt-a"), ServedModel(id="gpt-b")])
PUBLISHED = parse_checkpoints("published")


@pytest.mark.parametrize(
    ("text", "chosen"),
    [
        ("published", ["published"]),
        ("all", list(STEPS)),
        ("last", [1200]),
        ("best", ["best"]),
        ("200-800", [200, 400, 600, 800]),
        ("300-500", [400]),
        ("600", [600]),
        ("every:2", [400, 800, 1200]),
        ("published, last,1200 ,200", ["published", 1200, 200]),
        ("7", []),
    ],
)
def test_checkpoints_are_chosen_of_those_there_are(text: str, chosen: list[object]) -> None:
    assert choose(parse_checkpoints(text), STEPS, is_published=True) == chosen


def test_the_originals_e_is_the_first_of_all_checkpoints_meant() -> None:
    steps = tuple(range(100, 1300, 100))
    assert choose(FromStep(300), steps, is_published=True) == list(range(300, 1300, 100))
    assert choose(FromStep(301), steps, is_published=True) == list(range(400, 1300, 100))
    assert choose(FromStep(1300), steps, is_published=True) == []


def test_with_no_step_the_original_takes_those_from_1000_on() -> None:
    chosen = choose(ORIGINALS_CHECKPOINTS, (900, 1000, 1100), is_published=True)
    assert chosen == [1000, 1100]
    assert choose(ORIGINALS_CHECKPOINTS, (900,), is_published=True) == ["published"]
    assert choose(ORIGINALS_CHECKPOINTS, (900,), is_published=False) == []


@pytest.mark.parametrize("text", ["", "newest", "every:0", "800-200", "1-2-3", "-5", "all;last"])
def test_what_names_no_checkpoints_is_refused(text: str) -> None:
    with pytest.raises(SelectionError, match="names no checkpoints"):
        parse_checkpoints(text)


def test_all_adapters_are_meant_when_none_is_named() -> None:
    sources = choose_sources(OURS, [], PUBLISHED)
    assert sources == [Source("hushi", "hushi"), Source("plain", "plain")]
    last = choose_sources(OURS, [], parse_checkpoints("last"))
    assert last == [Source("hushi@1200", "hushi", 1200), Source("young@60", "young", 60)]


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("base", Source("base")),
        ("Qwen/Qwen2.5-7B", Source("base")),
        ("hushi", Source("hushi", "hushi")),
        ("adapters/hushi", Source("hushi", "hushi")),
        ("./adapters/hushi/", Source("hushi", "hushi")),
        ("hushi@400", Source("hushi@400", "hushi", 400)),
        ("hushi/0000400_adapters.safetensors", Source("hushi@400", "hushi", 400)),
        ("/old/hushi/0001200_adapters.safetensors", Source("hushi@1200", "hushi", 1200)),
        ("adapters/hushi/adapters.safetensors", Source("hushi", "hushi")),
        ("hushi:0.6", Source("hushi:0.6", "hushi:0.6")),
        ("hushi:0.7+plain:0.3", Source("hushi:0.7+plain:0.3", "hushi:0.7+plain:0.3")),
    ],
)
def test_a_name_is_any_spelling_of_a_model_or_its_folder(name: str, source: Source) -> None:
    assert choose_sources(OURS, [name, name], PUBLISHED) == [source]


@pytest.mark.parametrize(
    ("names", "checkpoints", "said"),
    [
        (["libai"], "published", "has no adapter 'libai'; it has hushi, young, plain, and base"),
        (["hushi", "plain"], "last", "plain has published"),
        (["young"], "published", "young has 30, 60"),
        (
            ["hushi/0001600_adapters.safetensors"],
            "published",
            "no checkpoint hushi@1600: hushi has",
        ),
        (["hu shi"], "published", "is not NAME"),
        ([], "7", "no adapter with such checkpoints"),
    ],
)
def test_what_the_server_does_not_have_is_told_with_what_it_has(
    names: list[str], checkpoints: str, said: str
) -> None:
    with pytest.raises(SelectionError, match=said):
        choose_sources(OURS, names, parse_checkpoints(checkpoints))


def test_a_foreign_server_is_asked_by_its_models_names() -> None:
    assert choose_sources(FOREIGN, ["gpt-b"], PUBLISHED) == [Source("gpt-b", "gpt-b")]
    only = catalogue([ServedModel(id="gpt")])
    assert choose_sources(only, [], PUBLISHED) == [Source("gpt", "gpt")]
    with pytest.raises(SelectionError, match="--adapters: gpt-a, gpt-b"):
        choose_sources(FOREIGN, [], PUBLISHED)
    with pytest.raises(SelectionError, match="no model 'claude'"):
        choose_sources(FOREIGN, ["claude"], PUBLISHED)


def test_another_base_than_the_one_asked_for_is_refused() -> None:
    check_base(OURS, "Qwen/Qwen2.5-7B")
    check_base(OURS, "models/Qwen2.5-7B/")
    with pytest.raises(SelectionError, match="not Qwen2"):
        check_base(OURS, "Qwen2.5-32B")


def test_best_and_last_become_the_steps_they_are_now() -> None:
    asked: list[str] = []

    async def find(name: str) -> ServedModel:
        asked.append(name)
        return ServedModel(id=name.replace("best", "400"))

    sources = [
        Source("hushi@best", "hushi", "best"),
        Source("hushi@400", "hushi", 400),
        Source("hushi", "hushi"),
        Source("hushi:0.5", "hushi:0.5"),
    ]
    settled = anyio.run(resolve_checkpoints, sources, find)
    assert settled == [Source("hushi@400", "hushi", 400), *sources[2:]]
    assert asked == ["hushi@best", "hushi:0.5"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (path := tmp_path / "mine").mkdir()
    (path / "adapter_config.json").write_text(
        '{"fine_tune_type": "lora", "num_layers": 1, "lora_parameters": {"rank": 4, "scale": 1.0}}'
    )
    (path / "0000100_adapters.safetensors").write_bytes(b"weights")
    return path


@pytest.mark.parametrize("is_same", [True, False])
def test_an_adapter_named_by_its_folder_is_the_one_in_it(folder: Path, is_same: bool) -> None:
    here = digest_at(folder, 100)
    assert here is not None

    async def find(name: str) -> ServedModel:
        return ServedModel(id=name, digest=here if is_same else "another")

    checking = [str(folder)], [Source("mine@100", "mine", 100)], find
    if is_same:
        anyio.run(check_folders, *checking)
        return
    with pytest.raises(SelectionError, match=r"mine@100 is another one than in .*mine; start it"):
        anyio.run(check_folders, *checking)


def test_a_name_says_nothing_about_a_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)

    async def find(name: str) -> ServedModel:
        raise AssertionError(name)

    anyio.run(check_folders, ["mine"], [Source("mine@100", "mine", 100)], find)
