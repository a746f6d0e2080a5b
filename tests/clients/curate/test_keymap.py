from pathlib import Path

import pytest

from verse_clients.curate import KeymapError
from verse_clients.curate.keymap import (
    ACTIONS,
    Keymap,
    default_path,
    normal_key,
    read_keymap,
    show_key,
    to_toml,
)


def write(path: Path, text: str) -> Path:
    path.write_text(text, "utf-8")
    return path


GUIDE = Path(__file__).parents[3] / "docs" / "curate.md"


def test_the_guide_lists_every_key() -> None:
    rows = [
        f"| {' '.join(f'`{show_key(key)}`' for key in action.keys)} | {action.help} |"
        for action in ACTIONS
    ]
    table = [line for line in GUIDE.read_text("utf-8").splitlines() if line.startswith("| `")]
    assert table == [row.replace("Cmd+", "Ctrl+") for row in rows]  # the guide says Ctrl


def test_the_printed_keymap_reads_back_as_it_is(tmp_path: Path) -> None:
    file = write(tmp_path / "keys.toml", to_toml(Keymap()))
    keymap = read_keymap(file)
    assert [keymap.keys(action.name) for action in ACTIONS] == [a.keys for a in ACTIONS]


def test_every_usual_key_stands_for_one_action() -> None:
    keymap = Keymap()
    for action in ACTIONS:
        for key in action.keys:
            assert keymap.action(normal_key(key)) == action.name


@pytest.mark.parametrize(
    ("one", "other"),
    [("A", "a"), ("Shift+Ctrl+z", "Ctrl+Shift+Z"), ("?", "question"), ("Ctrl++", "Ctrl+plus")],
)
def test_a_key_has_one_normal_spelling(one: str, other: str) -> None:
    assert normal_key(one) == normal_key(other)


def test_keys_are_shown_as_people_read_them() -> None:
    assert [show_key(key) for key in ("a", "Left", "question", "Ctrl+z")] == [
        "a",
        "←",
        "?",
        "Ctrl+Z",
    ]


def test_own_keys_replace_those_of_their_action_alone(tmp_path: Path) -> None:
    file = write(tmp_path / "keys.toml", 'accept = "j"\nreject = ["k", ";"]\nskip = []\n')
    keymap = read_keymap(file)
    assert keymap.action("j") == "accept"
    assert keymap.action("a") is None
    assert keymap.action(normal_key(";")) == "reject"
    assert keymap.shown("skip") == ""
    assert keymap.action("e") == "edit"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('akzept = "a"', "no action 'akzept'"),
        ('accept = "r"', "is set for both"),
        ("accept = 3", "needs a key"),
        ('accept = [""]', "needs a key"),
        ('accept = "Hyper+a"', "needs a key"),
        ("accept = ", "cannot be read"),
    ],
)
def test_an_impossible_keymap_is_told_in_one_sentence(tmp_path: Path, text: str, said: str) -> None:
    file = write(tmp_path / "keys.toml", text)
    with pytest.raises(KeymapError) as caught:
        read_keymap(file)
    assert said in str(caught.value)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_named_file_must_be_there_the_usual_one_need_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(KeymapError, match="cannot be read"):
        read_keymap(tmp_path / "none.toml")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setattr("sys.platform", "linux")
    assert default_path() == tmp_path / "verse" / "curate-keys.toml"
    assert read_keymap(None).action("a") == "accept"
    default_path().parent.mkdir()
    write(default_path(), 'accept = "j"')
    assert read_keymap(None).action("j") == "accept"
