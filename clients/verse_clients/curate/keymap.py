"""Which key does what.

The poet's own keys stand in a TOML file:

    accept = "j"
    reject = ["k", "Delete"]
    undo = ["u", "Mod+z"]

A key is a single character, a name as Tk spells it (Left, space, F5), or one with `Ctrl+`,
`Shift+`, `Alt+` or `Mod+` before it; `Mod` is Cmd on a Mac and Ctrl elsewhere. An action that is
not named keeps its keys; an empty list takes them away.
"""

import os
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from verse_clients.curate import KeymapError


class Action(NamedTuple):
    """Something the poet can do in the main window."""

    name: str
    keys: tuple[str, ...]
    title: str
    """On its button."""
    help: str


ACTIONS = (
    Action("accept", ("a",), "Accept", "Accept the poem and go on."),
    Action("reject", ("r",), "Reject", "Reject it and go on."),
    Action("skip", ("s",), "Skip", "Skip it for now and go on."),
    Action("edit", ("e",), "Edit", "Edit the poem; saving accepts it."),
    Action("undo", ("u", "Mod+z"), "Undo", "Undo the last decision, as often as you like."),
    Action("redo", ("y", "Mod+Shift+z", "Mod+y"), "Redo", "Redo what you undid."),
    Action("previous", ("Left",), "Back", "Show the previous poem."),
    Action("next", ("Right",), "Next", "Show the next poem."),
    *(
        Action(f"stars_{n}", (str(n),), "★" * n, f"Give {n} star{'s' * (n > 1)}; decides nothing.")
        for n in range(1, 6)
    ),
    Action(
        "blind", ("b",), "Source", "Show or hide where poems come from and how they were judged."
    ),
    Action("jump", ("d",), "Compare", "Go to the poem this one resembles, or show what it copies."),
    Action("more", ("g",), "More", "Ask the server for two more poems on this theme."),
    Action("pairs", ("p",), "Pairs", "Compare two poems side by side."),
    Action("find", ("f", "Mod+f"), "Find", "Filter, search and order the queue."),
    Action("statistics", ("i",), "Statistics", "Show how many poems were accepted."),
    Action("export", ("x",), "Export", "Write the training files and the book."),
    Action("type", ("t",), "Font", "Choose the font, its size, and light or dark colours."),
    Action("larger", ("Mod+plus", "Mod+equal"), "Larger", "Larger text."),
    Action("smaller", ("Mod+minus",), "Smaller", "Smaller text."),
    Action("normal", ("Mod+0",), "Normal", "Text of the normal size."),
    Action("help", ("question", "F1"), "Keys", "Show all keys."),
    Action("close", ("Mod+w", "Mod+q"), "Close", "Close the window; everything is already saved."),
)
BY_NAME: Mapping[str, Action] = MappingProxyType({action.name: action for action in ACTIONS})

_SHOWN = {
    "Left": "←", "Right": "→", "Up": "↑", "Down": "↓", "question": "?", "plus": "+",
    "minus": "−", "equal": "=", "space": "Space", "Return": "Enter", "Escape": "Esc",
}  # fmt: skip
_NAMED = {
    "?": "question", "+": "plus", "-": "minus", "=": "equal", " ": "space", ",": "comma",
    ".": "period", ";": "semicolon", ":": "colon", "/": "slash", "\\": "backslash",
    "[": "bracketleft", "]": "bracketright", "'": "apostrophe", "`": "grave", "!": "exclam",
}  # fmt: skip
_MODIFIERS = ("Mod", "Ctrl", "Alt", "Shift")


class Keymap:
    """Keys to actions and back."""

    def __init__(self, changed: Mapping[str, tuple[str, ...]] | None = None) -> None:
        """Start from the usual keys, with those of some actions changed.

        Raises:
            KeymapError: two actions with one key.
        """
        self._keys = {action.name: action.keys for action in ACTIONS} | dict(changed or {})
        self._actions: dict[str, str] = {}
        for name, keys in self._keys.items():
            for key in keys:
                other = self._actions.setdefault(normal_key(key), name)
                if other != name:
                    raise KeymapError(f"The key {key!r} is set for both {other} and {name}.")

    def action(self, key: str) -> str | None:
        """The action behind a key, in the spelling of `normal_key`."""
        return self._actions.get(key)

    def keys(self, action: str) -> tuple[str, ...]:
        """The keys of an action, the usual one first."""
        return self._keys[action]

    def shown(self, action: str) -> str:
        """An action's first key as a button shows it; empty if it has none."""
        return show_key(self._keys[action][0]) if self._keys[action] else ""


def normal_key(key: str) -> str:
    """One spelling per key: modifiers in a fixed order, `Mod` resolved, letters small."""
    *modifiers, name = [*key[:-1].split("+"), key[-1]] if key.endswith("+") else key.split("+")
    held = {_MOD if modifier == "Mod" else modifier for modifier in modifiers if modifier}
    name = _NAMED.get(name, name)
    name = name.lower() if len(name) == 1 else name
    return "+".join([*(m for m in ("Cmd", *_MODIFIERS) if m in held), name])


def show_key(key: str) -> str:
    """A key as people read it."""
    *modifiers, name = key.split("+")
    shown = [_MOD if modifier == "Mod" else modifier for modifier in modifiers]
    return "+".join([*shown, _SHOWN.get(name, name.upper() if modifiers else name)])


def to_toml(keymap: Keymap) -> str:
    """A file with all actions and their keys, to start one's own from."""
    lines: list[str] = []
    for action in ACTIONS:
        keys = ", ".join(f'"{key}"' for key in keymap.keys(action.name))
        lines.append(f"# {action.help}\n{action.name} = [{keys}]\n")
    return "\n".join(lines)


def default_path() -> Path:
    """Where the poet's own keys are looked for."""
    if sys.platform == "darwin":
        base = Path.home() / "Library" / "Application Support"
    elif sys.platform == "win32":
        base = Path(os.environ.get("APPDATA", Path.home()))
    else:
        base = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    return base / "verse" / "curate-keys.toml"


def read_keymap(path: Path | None) -> Keymap:
    """Read the poet's keys.

    Args:
        path: A file that must be there; None for the usual place, where it may be missing.

    Raises:
        KeymapError: the file cannot be read, or says something impossible.
    """
    file = path or default_path()
    if path is None and not file.exists():
        return Keymap()
    try:
        content = tomllib.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise KeymapError(f"{file} cannot be read: {error}.") from error
    try:
        return Keymap({name: _keys(name, value) for name, value in content.items()})
    except KeymapError as error:
        raise KeymapError(f"{file}: {error}") from error


def _keys(name: str, value: Any) -> tuple[str, ...]:
    if name not in BY_NAME:
        raise KeymapError(f"There is no action {name!r}; the actions are {', '.join(BY_NAME)}.")
    keys = [value] if isinstance(value, str) else value
    if not isinstance(keys, list) or not all(_is_key(key) for key in keys):  # pyright: ignore
        raise KeymapError(f"{name} needs a key or a list of keys, such as 'a' or 'Mod+z'.")
    return tuple(str(key) for key in keys)  # pyright: ignore


def _is_key(key: object) -> bool:
    if not isinstance(key, str) or not key:
        return False
    *modifiers, name = key.split("+") if len(key) > 1 else (key,)
    return bool(name) and all(modifier in _MODIFIERS for modifier in modifiers)


_MOD = "Cmd" if sys.platform == "darwin" else "Ctrl"
