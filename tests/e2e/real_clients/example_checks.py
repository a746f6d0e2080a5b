"""An example of docs/serve.md, in the working folder as example.py, under the client's Python."""

import runpy

import pytest


def test_the_example_of_the_guide_writes_a_poem(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path("example.py", run_name="__main__")
    assert any("\u4e00" <= character <= "\u9fff" for character in capsys.readouterr().out)
