"""Configurations that ship with Verse, known by name: `verse train -c qwen2.5-7b-4bit`."""

from difflib import get_close_matches
from pathlib import Path

from verse_trainer.errors import ConfigError

_PACKAGE = Path(__file__).parent


def presets_folder() -> Path:
    """Inside the package where it was installed from a wheel, beside it in the source tree."""
    installed = _PACKAGE / "presets"
    return installed if installed.is_dir() else _PACKAGE.parent / "presets"


def preset_names() -> list[str]:
    """All of them, sorted."""
    return sorted(path.stem for path in presets_folder().glob("*.yaml"))


def find_config(path_or_name: str) -> Path:
    """The file that `-c` means: a path, or a preset's name.

    Raises:
        ConfigError: there is neither.
    """
    path = Path(path_or_name)
    if path.is_file():
        return path
    names = preset_names()
    name = path_or_name.removesuffix(".yaml")
    if name in names:
        return presets_folder() / f"{name}.yaml"
    near = get_close_matches(name, names, n=1)
    hint = f"did you mean {near[0]}?" if near else f"the presets are {', '.join(names)}."
    raise ConfigError(f"There is no file and no preset {path_or_name!r}; {hint}")
