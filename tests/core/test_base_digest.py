"""Two machines have the same base if and only if its digest is the same; looking takes no time."""

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from verse.adapter_digest import base_digest

LARGE = 100_000
"""Bytes of a tensor, of which most are never read."""


def write_weights(file: Path, tensors: dict[str, bytes], dtype: str = "U8") -> None:
    entries: dict[str, Any] = {}
    place = 0
    for name, data in tensors.items():
        offsets = [place, place + len(data)]
        entries[name] = {"dtype": dtype, "shape": [len(data)], "data_offsets": offsets}
        place += len(data)
    header = json.dumps(entries).encode()
    file.write_bytes(struct.pack("<Q", len(header)) + header + b"".join(tensors.values()))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    model = tmp_path / "model"
    model.mkdir()
    write_weights(model / "model.safetensors", {"a": bytes(LARGE), "b": b"\1" * LARGE})
    (model / "config.json").write_text('{"model_type": "qwen2", "hidden_size": 8}')
    (model / "tokenizer.json").write_text("{}")
    return model


def test_the_same_model_in_other_files_has_the_same_digest(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    write_weights(other / "model-00001-of-00002.safetensors", {"b": b"\1" * LARGE})
    write_weights(other / "model-00002-of-00002.safetensors", {"a": bytes(LARGE)})
    spelled = '{ "hidden_size": 8, "model_type": "qwen2", "transformers_version": "5.0" }'
    (other / "config.json").write_text(spelled)
    (other / "tokenizer.json").write_text("{}")
    assert base_digest(other) == base_digest(folder)


@pytest.mark.parametrize("where", [0, LARGE - 1])
def test_a_tensor_that_differs_at_either_end_makes_another_base(folder: Path, where: int) -> None:
    before = base_digest(folder)
    changed = bytearray(LARGE)
    changed[where] = 1
    write_weights(folder / "model.safetensors", {"a": bytes(changed), "b": b"\1" * LARGE})
    assert base_digest(folder) != before


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.json", '{"model_type": "qwen2", "hidden_size": 16}'),
        ("tokenizer.json", '{"added": 1}'),
        ("generation_config.json", '{"temperature": 0.1}'),
        ("chat_template.jinja", "{{ messages }}"),
    ],
)
def test_what_decides_a_word_is_part_of_it(folder: Path, name: str, content: str) -> None:
    before = base_digest(folder)
    (folder / name).write_text(content)
    assert base_digest(folder) != before


def test_types_count_and_what_is_no_part_of_the_model_does_not(folder: Path) -> None:
    before = base_digest(folder)
    (folder / "README.md").write_text("A card.")
    assert base_digest(folder) == before
    write_weights(folder / "model.safetensors", {"a": bytes(LARGE), "b": b"\1" * LARGE}, "I8")
    assert base_digest(folder) != before


def test_a_file_with_a_header_too_large_to_list_still_counts(folder: Path) -> None:
    before = base_digest(folder)
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", 1 << 40) + b"{}")
    strange = base_digest(folder)
    assert strange != before
    assert base_digest(folder) == strange


def test_most_of_the_weights_are_never_read(folder: Path) -> None:
    """In the middle of a tensor a byte may differ: that is the price of not reading 60 GB."""
    before = base_digest(folder)
    changed = bytearray(LARGE)
    changed[LARGE // 2] = 1
    write_weights(folder / "model.safetensors", {"a": bytes(changed), "b": b"\1" * LARGE})
    assert base_digest(folder) == before
