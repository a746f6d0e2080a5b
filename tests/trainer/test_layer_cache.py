"""Frozen layers computed once: the same is learned, and a cache is only used where it fits."""

import errno
import json
import os
from collections.abc import Generator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import mlx.core as mx
import mlx.nn as nn
import msgspec
import numpy as np
import pytest
from mlx.utils import tree_flatten
from mlx_lm.models import qwen2

from tests.trainer.architectures import arrays_of
from tests.trainer.runs import (
    POEMS,
    Runs,
    build_model,
    chat,
    files_of,
    load,
    pairs,
    write_data,
    write_rows,
)
from verse_trainer import (
    frozen_layers,
    gate,
    layer_cache,
    material,
    objective,
    run,
    vocabulary,
)
from verse_trainer.config import LoraConfig
from verse_trainer.errors import TrainingError
from verse_trainer.events import Caching, Evaluated, Stepped
from verse_trainer.frozen_layers import load_for_training
from verse_trainer.objective import WholeLoss

NO_DROPOUT = LoraConfig(rank=4, dropout=0.0)


@pytest.fixture(scope="module")
def base_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_model(tmp_path_factory.mktemp("models") / "four", num_hidden_layers=4)


@pytest.fixture
def runs(base_folder: Path, tmp_path: Path, quick: None) -> Runs:
    return Runs(load(base_folder), tmp_path)


def losses(runs: Runs, name: str, **keys: Any) -> tuple[list[float], int | None]:
    """Of every step and evaluation, and the best step."""
    one = Runs(runs.base, runs.root / name)
    if keys.get("method") == "dpo":
        write_rows(one.data / "train.jsonl", pairs(4))
        write_rows(one.data / "valid.jsonl", pairs(6)[4:])
    outcome = one.train(one.config(**{"num_layers": 2, "lora_parameters": NO_DROPOUT, **keys}))
    found = [event.loss for event in one.reported(Stepped)]
    return found + [event.valid_loss for event in one.reported(Evaluated)], outcome.best_step


@pytest.fixture
def unknown_model() -> Generator[None]:
    """Models are run whole, as those of unknown kinds are."""
    with (
        patch.object(material, "is_known", return_value=False),
        patch.object(frozen_layers, "is_known", return_value=False),
    ):
        yield


KINDS: list[dict[str, Any]] = [
    {},
    {"fine_tune_type": "dora"},
    {"fine_tune_type": "full"},
    {"grad_accumulation_steps": 3},
    {"grad_checkpoint": True},
    {"mask_prompt": False},
    {"method": "dpo"},
]


@pytest.mark.parametrize("keys", KINDS, ids=str)
def test_losses_and_best_checkpoint_are_those_of_the_whole_model(
    runs: Runs, keys: dict[str, Any], request: pytest.FixtureRequest
) -> None:
    cached, best = losses(runs, "cached", **keys)
    without, best_without = losses(runs, "without", layer_cache=False, **keys)
    request.getfixturevalue("unknown_model")
    whole, best_whole = losses(runs, "whole", **keys)
    assert cached == pytest.approx(without, rel=1e-6)
    assert cached == pytest.approx(whole, rel=1e-5)
    assert best == best_without == best_whole


@pytest.mark.parametrize("keys", [{}, {"method": "dpo"}, {"grad_checkpoint": True}], ids=str)
def test_the_way_of_a_gpu_gives_the_same(
    runs: Runs, keys: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One graph that mlx compiles, with sizes rounded up; computed on this machine's CPU."""
    expected, best = losses(runs, "cpu", iters=3, **keys)
    for module in (gate, objective, vocabulary):
        monkeypatch.setattr(module, "runs_on_cpu", lambda: False)
    if not keys:
        mx.enable_compile()
    found, its_best = losses(runs, "gpu", iters=3, **keys)
    assert found == pytest.approx(expected, rel=1e-5)
    assert best == its_best


def test_dropout_drops_the_same_with_and_without_a_cache(runs: Runs) -> None:
    keys = {"lora_parameters": LoraConfig(rank=4, dropout=0.3)}
    cached, _ = losses(runs, "cached", **keys)
    without, _ = losses(runs, "without", layer_cache=False, **keys)
    plain, _ = losses(runs, "plain")
    assert cached == pytest.approx(without, rel=1e-6)
    assert cached[1:8] != pytest.approx(plain[1:8], rel=1e-4)


def test_the_layers_below_are_let_go_and_never_asked_for_again(runs: Runs) -> None:
    prepared = runs.prepare(runs.config(num_layers=1))
    assert prepared.num_frozen == 3
    run.train(prepared, runs.events.append)
    layers: Any = prepared.base.model.layers
    assert [bool(layer.parameters()) for layer in layers] == [False, False, False, True]
    assert [round(event.share, 2) for event in runs.reported(Caching)] == [0.33, 0.67, 1.0]


def test_poems_on_the_way_keep_the_whole_model(runs: Runs) -> None:
    prepared = runs.prepare(runs.config(num_layers=1, sample_every=4, sample_themes=("河",)))
    run.train(prepared, runs.events.append)
    model: Any = prepared.base.model
    assert all(layer.parameters() for layer in model.layers)


def test_a_run_goes_on_bit_for_bit_whether_the_file_is_there_or_not(runs: Runs) -> None:
    keys = {"num_layers": 2, "epochs": 3, "save_every": 3, "steps_per_eval": 3}
    through = Runs(runs.base, runs.root / "through")
    through.train(through.config(**keys))
    for name, is_kept in (("with", True), ("gone", False)):
        stopped = Runs(runs.base, runs.root / name)
        folder = runs.root / name / "kept"
        config = stopped.config(**keys, layer_cache_folder=str(folder))
        stopped.train(config, stop=lambda stopped=stopped: len(stopped.reported(Stepped)) >= 5)
        (file,) = folder.iterdir()
        if not is_kept:
            file.unlink()
        stopped.events.clear()
        stopped.train(stopped.config(**keys, layer_cache_folder=str(folder), resume=True))
        assert bool(stopped.reported(Caching)) != is_kept
        ended, expected = files_of(stopped.folder), files_of(through.folder)
        assert {name: ended[name] for name in expected} == expected
        assert list(folder.iterdir()) == [file]


def never(_num_bytes: int) -> bool:
    return False


def test_large_states_lie_beside_the_adapter_until_the_run_is_over(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "is_small", never)
    seen: list[int] = []
    folder = runs.folder / "layer_cache"
    runs.train(
        runs.config(num_layers=2),
        on_event=lambda event: (
            seen.append(len(list(folder.iterdir()))) if isinstance(event, Stepped) else None
        ),
    )
    assert set(seen) == {1}
    assert not folder.exists()


def test_what_a_killed_pass_left_is_cleared_away(runs: Runs) -> None:
    file, config = kept_file(runs)
    old, young = (file.with_name(f".{file.name}.{name}") for name in ("old", "young"))
    for left in (old, young):
        left.write_bytes(b"half")
    os.utime(old, (0, 0))
    file.unlink()
    again(runs, config)
    assert set(file.parent.iterdir()) == {file, young}


def kept_file(runs: Runs) -> tuple[Path, Any]:
    folder = runs.root / "kept"
    config = runs.config(num_layers=2, epochs=1, layer_cache_folder=str(folder))
    runs.train(config)
    (file,) = folder.iterdir()
    return file, config


def again(runs: Runs, config: Any, name: str = "again") -> None:
    other = Runs(runs.base, runs.root)
    other.train(msgspec.structs.replace(config, adapter_path=str(runs.root / name)))


def test_the_file_of_another_base_is_refused_in_a_sentence(runs: Runs) -> None:
    file, config = kept_file(runs)
    data = file.read_bytes()
    weights = runs.base.path / "model.safetensors"
    before = weights.read_bytes()
    weights.write_bytes(before[:-64] + bytes(64))  # the same shapes, other numbers
    try:
        again(runs, config)
        (other,) = set(file.parent.iterdir()) - {file}
        assert file.read_bytes() == data
        other.write_bytes(data)
        with pytest.raises(TrainingError, match=r"of another base or other rows; delete it"):
            again(runs, config, "once more")
    finally:
        weights.write_bytes(before)


def test_a_file_that_was_cut_off_is_refused_in_a_sentence(runs: Runs) -> None:
    file, config = kept_file(runs)
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(TrainingError, match=r"cut off or damaged; delete it"):
        again(runs, config)


def test_a_full_disk_is_said_and_leaves_nothing_behind(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(layer_cache._FileStore, "write", full)  # pyright: ignore[reportPrivateUsage]
    folder = runs.root / "kept"
    with pytest.raises(TrainingError, match=r"disk of .*kept is full: .* --no-layer-cache"):
        runs.train(runs.config(num_layers=2, layer_cache_folder=str(folder)))
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ({"num_layers": -1}, r"All layers (4) are trained"),
        ({"num_layers": 4}, r"All layers (4) are trained"),
        ({"num_layers": 2, "layer_cache": False}, "switched off"),
        (
            {
                "num_layers": 2,
                "lora_parameters": LoraConfig(
                    rank=2, keys=("self_attn.q_proj", "model.embed_tokens")
                ),
            },
            "model.embed_tokens is trained",
        ),
    ],
)
def test_a_run_without_a_cache_says_why(runs: Runs, keys: dict[str, Any], reason: str) -> None:
    prepared = runs.prepare(runs.config(epochs=1, **keys))
    assert prepared.layer_cache is None
    assert reason in prepared.why_no_cache
    run.train(prepared, runs.events.append)
    assert not runs.reported(Caching)


@pytest.mark.usefixtures("unknown_model")
def test_other_kinds_of_model_are_run_whole_and_say_so(runs: Runs) -> None:
    prepared = runs.prepare(runs.config(num_layers=2))
    assert isinstance(prepared.row_loss, WholeLoss)
    assert "no layer cache" in prepared.why_no_cache


def stored_base(folder: Path, bits: int | None) -> Path:
    """A base in bfloat16, packed if wanted."""
    build_model(folder, num_hidden_layers=4, hidden_size=64, intermediate_size=64)
    config = json.loads((folder / "config.json").read_text())
    model = qwen2.Model(qwen2.ModelArgs.from_dict(config))
    model.load_weights(str(folder / "model.safetensors"))
    model.set_dtype(mx.bfloat16)
    if bits is not None:
        nn.quantize(model, 64, bits)
        config["quantization"] = {"bits": bits, "group_size": 64}
        (folder / "config.json").write_text(json.dumps(config))
    weights = dict(tree_flatten(model.parameters()))
    mx.save_safetensors(str(folder / "model.safetensors"), weights, {"format": "mlx"})
    return folder


@pytest.mark.parametrize("bits", [None, 4])
def test_only_what_is_trained_comes_into_memory(
    runs: Runs, tmp_path: Path, bits: int | None
) -> None:
    folder = stored_base(tmp_path / "stored", bits)
    found: dict[bool, list[float]] = {True: [], False: []}
    write_data(runs.data)
    for has_cache, of_steps in found.items():
        config = runs.config(
            model=str(folder),
            adapter_path=str(tmp_path / str(has_cache)),
            num_layers=1,
            epochs=1,
            lora_parameters=NO_DROPOUT,
            layer_cache=has_cache,
        )
        mx.clear_cache()
        before = mx.get_active_memory()
        prepared = run.prepare(config, load_for_training(config))
        if has_cache:
            model: Any = prepared.base.model
            layer = sum(array.nbytes for array in arrays_of(model.layers[3].parameters()))
            head = model.model.embed_tokens.weight.nbytes
            assert mx.get_active_memory() - before < 1.5 * (layer + head)
        run.train(
            prepared,
            lambda event, of_steps=of_steps: (
                of_steps.append(event.loss) if isinstance(event, Stepped) else None
            ),
        )
    assert found[True] == pytest.approx(found[False], rel=1e-5)


def test_equal_beginnings_are_kept_once_and_rows_in_any_order(runs: Runs) -> None:
    write_rows(runs.data / "train.jsonl", [chat(*POEMS[0]), chat(*POEMS[1]), chat(*POEMS[0])])
    prepared = runs.prepare(runs.config(num_layers=2))
    cache, rows = prepared.layer_cache, prepared.material.rows["train"]
    assert cache is not None
    assert cache.num_tokens < rows[0].length + rows[1].length
    prepared.fill_cache(lambda _share: None)
    first = np.array(cache.states([rows[0]], rows[0].length))
    both = np.array(cache.states(rows[1::-1], cache.num_tokens))
    own = cache.num_tokens - rows[1].length
    assert np.array_equal(both[-own:], first[-own:])
