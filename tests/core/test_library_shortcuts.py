"""What is quicker comes to the same: the names in transformers, and tokenizers."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from mlx_lm import tokenizer_utils
from mlx_lm.utils import load_tokenizer
from transformers import PreTrainedTokenizerFast

from tests.core.tokenizer import VERSE_TINY
from verse.library_shortcuts import quicker_tokenizers

TEXT = "床前明月光，\n疑是地上霜。 <|im_end|> moon 🌙"
Load = Callable[[Path], Any]
load: Load = load_tokenizer


def known(tokenizer: Any) -> dict[str, Any]:
    """All that a wrapper remembers, but for the objects in it."""
    plain = (str, int, float, bool, tuple, set, dict, type(None))
    return {name: value for name, value in vars(tokenizer).items() if isinstance(value, plain)}


def streamed(tokenizer: Any, tokens: list[int]) -> list[str]:
    detokenizer, pieces = tokenizer.detokenizer, []
    for token in tokens:
        detokenizer.add_token(token)
        pieces.append(detokenizer.last_segment)
    detokenizer.finalize()
    return [*pieces, detokenizer.last_segment]


def check_is_the_same(folder: Path) -> None:
    slow = load(folder)
    with quicker_tokenizers():
        quick = load(folder)
    assert known(quick) == known(slow)
    assert type(quick.detokenizer) is type(slow.detokenizer)
    tokens = slow.encode(TEXT)
    assert quick.encode(TEXT) == tokens
    assert streamed(quick, tokens) == streamed(slow, tokens)
    assert list(quick.detokenizer.tokenmap) == list(slow.detokenizer.tokenmap)
    assert quick.backend_tokenizer.to_str() == slow.backend_tokenizer.to_str()


def test_a_tokenizer_is_the_same() -> None:
    check_is_the_same(VERSE_TINY)


@pytest.mark.qwen
def test_a_tokenizer_of_qwen_is_the_same(qwen: str) -> None:
    check_is_the_same(Path(qwen))


def test_no_vocabulary_is_listed_and_the_libraries_are_as_before() -> None:
    listed = mock.Mock(side_effect=AssertionError("the whole vocabulary"))
    with quicker_tokenizers(), mock.patch.object(PreTrainedTokenizerFast, "get_vocab", listed):
        load(VERSE_TINY)
    with (
        mock.patch.object(PreTrainedTokenizerFast, "get_vocab", listed),
        pytest.raises(AssertionError, match="the whole vocabulary"),
    ):
        load(VERSE_TINY)


def test_a_tokenizer_with_ways_of_its_own_is_asked_as_ever() -> None:
    class Own(PreTrainedTokenizerFast):
        def get_vocab(self) -> dict[str, int]:
            return {"<think>": 5, "</think>": 6}

    tokenizer = Own(tokenizer_file=str(VERSE_TINY / "tokenizer.json"))
    with quicker_tokenizers():
        assert tokenizer_utils.TokenizerWrapper(tokenizer).think_start_id == 5


@pytest.mark.parametrize("text", ["{", "[]", '{"decoder": NaN}'])
def test_a_file_that_cannot_be_parsed_so_is_left_to_json(text: str, tmp_path: Path) -> None:
    for file in VERSE_TINY.glob("*.json"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "tokenizer.json").write_text(text, "utf-8")
    with pytest.raises(Exception) as slow:  # noqa: PT011  (whatever the library makes of it)
        load(tmp_path)
    with quicker_tokenizers(), pytest.raises(Exception) as quick:  # noqa: PT011
        load(tmp_path)
    assert (quick.type, str(quick.value)) == (slow.type, str(slow.value))


NAMES = """
import verse.base_model
import importlib.util
from pathlib import Path
from transformers.utils import import_utils

folder = Path(import_utils.__file__).parents[1] / "models"
spec = importlib.util.spec_from_file_location("transformers.utils.unchanged", import_utils.__file__)
unchanged = importlib.util.module_from_spec(spec)
spec.loader.exec_module(unchanged)
for path, prefix in ((folder, "models"), (str(folder / "__init__.py"), None)):
    names = import_utils.define_import_structure.__wrapped__(path, prefix)
    assert names == unchanged.define_import_structure(path, prefix)
    assert sum(map(len, names.values())) > 1000
cache = import_utils.create_import_structure_from_path.cache_info()
assert cache.misses < 1.1 * cache.currsize, f"read anew: {cache}"
"""


def test_the_names_in_transformers_are_those_of_the_library_and_nothing_is_read_twice() -> None:
    ran = subprocess.run([sys.executable, "-c", NAMES], check=False, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
