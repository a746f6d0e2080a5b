"""Weights in 8 bits on the disk: the same numbers as from the model, and never a reason to fail."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.models import qwen2
from numpy.typing import NDArray

from verse.cpu_weights import layers, packing
from verse.cpu_weights.packing import pack_model, weight_cache
from verse.cpu_weights.threads import Threads
from verse.cpu_weights.weight_cache import cache_folder

CONFIG: dict[str, Any] = {
    "model_type": "qwen2",
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-6,
    "vocab_size": 90,
    "max_position_embeddings": 512,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
}
TOKENS = [[5, 9, 2, 77]]


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "_SMALL_WEIGHTS", 0)
    for module in (layers, packing):
        monkeypatch.setattr(module, "CHUNK_NUMBERS", 40 * 64)


@pytest.fixture(scope="module")
def threads() -> Threads:
    return Threads(2)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    mx.save_safetensors(str(folder / "model.safetensors"), {"x": mx.zeros((3,))})
    return folder


def model_of(**changes: Any) -> Any:
    mx.random.seed(1)
    return qwen2.Model(qwen2.ModelArgs.from_dict({**CONFIG, **changes}))


class Start:
    """A model that is packed with what is kept, as a server does at its start."""

    def __init__(self, folder: Path, caches: Path, threads: Threads, **changes: Any) -> None:
        model = model_of(**changes)
        cache = weight_cache(model, folder, caches)
        assert cache is not None
        self.found = cache.is_found
        read = mock.Mock(side_effect=layers._chunk)  # pyright: ignore[reportPrivateUsage]
        with mock.patch.object(layers, "_chunk", read):
            pack_model(model, folder, "int8", threads, cache=cache)
        if (writer := cache.close()) is not None:
            writer.join()
        self.num_chunks_of_model = read.call_count
        self.logits: NDArray[np.float32] = np.array(model(mx.array(TOKENS))[:, :])


Starter = Callable[..., Start]


@pytest.fixture
def start(folder: Path, tmp_path: Path, threads: Threads) -> Starter:
    def started(**changes: Any) -> Start:
        return Start(folder, tmp_path / "caches", threads, **changes)

    return started


def kept(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "caches").iterdir())


@pytest.mark.parametrize("tied", [True, False])
def test_the_next_start_reads_nothing_of_the_model_and_has_the_same_bits(
    tied: bool, start: Starter, tmp_path: Path
) -> None:
    first, second = (start(tie_word_embeddings=tied) for _ in range(2))
    assert (first.found, second.found) == (False, True)
    assert np.array_equal(first.logits, second.logits)
    of_attention = 2 * (2 + 1 + 1 + 2)  # in chunks of 40 rows
    assert second.num_chunks_of_model == of_attention
    assert first.num_chunks_of_model > of_attention + 2 * 3
    assert [file.suffix for file in kept(tmp_path)] == [".int8"]


@pytest.mark.parametrize("tied", [True, False])
def test_of_weights_in_16_bits_nothing_is_kept_or_read(
    tied: bool, start: Starter, folder: Path, tmp_path: Path, threads: Threads
) -> None:
    start(tie_word_embeddings=tied)
    with_cache, without = (model_of(tie_word_embeddings=tied) for _ in range(2))
    cache = weight_cache(with_cache, folder, tmp_path / "caches")
    pack_model(with_cache, folder, "bf16", threads, cache=cache)
    pack_model(without, folder, "bf16", threads)
    logits = [np.array(model(mx.array(TOKENS))[:, :]) for model in (with_cache, without)]
    assert np.array_equal(logits[0], logits[1])


@pytest.mark.parametrize("place", [0.0, 0.3, 0.99])
def test_a_damaged_part_is_taken_from_the_model_and_the_file_written_anew(
    place: float, start: Starter, tmp_path: Path
) -> None:
    first = start()
    (file,) = kept(tmp_path)
    data = bytearray(file.read_bytes())
    data[int(place * len(data))] ^= 64
    file.write_bytes(data)
    second = start()
    assert second.found
    assert np.array_equal(first.logits, second.logits)
    assert not kept(tmp_path)
    assert not start().found
    assert start().found


def test_a_file_cut_short_counts_for_nothing(start: Starter, tmp_path: Path) -> None:
    first = start()
    (file,) = kept(tmp_path)
    os.truncate(file, file.stat().st_size - 1)
    second = start()
    assert not second.found
    assert np.array_equal(first.logits, second.logits)
    assert start().found


def test_a_file_of_another_base_is_never_read(start: Starter, folder: Path, tmp_path: Path) -> None:
    start()
    weights = folder / "model.safetensors"
    os.utime(weights, ns=(1, 1))  # edited in place: neither the size nor the tensors' ends tell
    assert not start().found
    (folder / "config.json").write_text('{"rope_theta": 5}')
    assert not start().found
    assert len(kept(tmp_path)) == 3
    assert start().found


def test_a_cache_that_cannot_be_written_only_is_not_there(
    start: Starter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "caches").write_text("no folder")
    first = start()
    (tmp_path / "caches").unlink()
    monkeypatch.setattr(os, "pwrite", mock.Mock(side_effect=OSError(28, "No space left on device")))
    second = start()
    assert not kept(tmp_path)
    full = shutil.disk_usage(tmp_path)._replace(free=1 << 20)
    monkeypatch.setattr(shutil, "disk_usage", mock.Mock(return_value=full))
    third = start()
    assert not kept(tmp_path)
    assert np.array_equal(first.logits, second.logits)
    assert np.array_equal(first.logits, third.logits)


def test_packing_that_fails_leaves_no_file(
    folder: Path, tmp_path: Path, threads: Threads, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = model_of()
    cache = weight_cache(model, folder, tmp_path / "caches")
    assert cache is not None
    monkeypatch.setattr(packing, "HostDecoderLayer", mock.Mock(side_effect=MemoryError))
    with pytest.raises(MemoryError):
        pack_model(model, folder, "int8", threads, cache=cache)
    assert cache.close() is None
    assert not kept(tmp_path)


def test_what_nobody_reads_goes_after_a_month(start: Starter, tmp_path: Path) -> None:
    caches = tmp_path / "caches"
    caches.mkdir()
    ages = {"old.int8": 31, "used.int8": 29, "left.part": 1, "note.txt": 99}
    now = caches.stat().st_mtime
    for name, days in ages.items():
        (caches / name).touch()
        os.utime(caches / name, (now - 86400 * days, now - 86400 * days))
    start()
    assert {"used.int8", "note.txt"} < {file.name for file in kept(tmp_path)}
    assert len(kept(tmp_path)) == 3


def test_a_small_model_keeps_nothing(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing, "_SMALL_WEIGHTS", 64_000_000)
    assert weight_cache(model_of(), folder, tmp_path) is None


def test_the_folder_is_the_one_named_or_follows_the_rule_of_xdg(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "verse"
    for unset in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", unset)
        assert cache_folder() == Path.home() / ".cache" / "verse"
    monkeypatch.setenv("VERSE_WEIGHT_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.setenv("VERSE_WEIGHT_CACHE", "")
    assert cache_folder() is None
