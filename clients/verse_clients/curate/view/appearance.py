"""Whether the desktop is set to dark, asked of the desktop itself."""

import subprocess
import sys

if sys.platform == "darwin":
    _QUESTION = ("defaults", "read", "-g", "AppleInterfaceStyle")
else:
    _QUESTION = ("gsettings", "get", "org.gnome.desktop.interface", "color-scheme")


def system_is_dark(seconds: float = 0.5) -> bool:
    """Ask once; a desktop that cannot be asked counts as light."""
    try:
        answer = subprocess.run(
            _QUESTION, capture_output=True, text=True, timeout=seconds, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return "dark" in answer.stdout.lower()
