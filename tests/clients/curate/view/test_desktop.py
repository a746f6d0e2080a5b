"""What the window asks of the desktop, without a window."""

import sys
from pathlib import Path

import pytest

from verse_clients.curate.view.looks import system_is_dark
from verse_clients.curate.view.theme import missing_font_notice


@pytest.mark.skipif(sys.platform == "darwin", reason="asks gsettings")
@pytest.mark.parametrize(
    ("script", "seconds", "dark"),
    [
        ("echo \"'prefer-dark'\"", 60, True),
        ("echo \"'default'\"", 60, False),
        ("exit 1", 60, False),
        ("exec sleep 60", 0.1, False),
    ],
)
def test_the_desktop_is_asked_and_never_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, seconds: float, dark: bool
) -> None:
    program = tmp_path / "gsettings"
    program.write_text(f"#!/bin/sh\n{script}\n", "utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert system_is_dark(seconds) is dark


def test_a_desktop_that_cannot_be_asked_is_light(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert not system_is_dark()


@pytest.mark.skipif(sys.platform == "darwin", reason="names Debian's packages")
def test_a_missing_typeface_is_named_with_its_package() -> None:
    assert missing_font_notice(["WenQuanYi Micro Hei", "Noto Serif CJK SC"]) is None
    assert missing_font_notice(["WenQuanYi Micro Hei"]) == (
        "No Chinese serif is installed; install fonts-noto-cjk (or the smaller fonts-arphic-uming)."
    )
    nothing = missing_font_notice([])
    assert nothing is not None
    assert nothing.startswith("No typeface with Chinese characters is installed")
