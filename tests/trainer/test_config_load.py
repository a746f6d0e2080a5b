"""From a file's keys and flags to one configuration."""

from typing import Any

import pytest

from verse_trainer.config import ScheduleConfig, TrainConfig
from verse_trainer.config_load import resolve_config
from verse_trainer.errors import ConfigError

ORIGINAL: dict[str, Any] = {
    "model": "models/verse-tiny",
    "train": True,
    "data": "data",
    "fine_tune_type": "lora",
    "seed": 42,
    "num_layers": 16,
    "batch_size": 4,
    "iters": 1000,
    "val_batches": 25,
    "learning_rate": 1e-5,
    "steps_per_report": 10,
    "steps_per_eval": 200,
    "resume_adapter_file": None,
    "adapter_path": "adapters/old",
    "save_every": 200,
    "test": False,
    "test_batches": 100,
    "max_seq_length": 2048,
    "lora_parameters": {
        "keys": ["self_attn.q_proj", "self_attn.v_proj"],
        "rank": 4,
        "alpha": 8,
        "dropout": 0.05,
    },
    "lr_schedule": {
        "name": "cosine_decay",
        "warmup": 100,
        "warmup_init": 1e-7,
        "arguments": [1e-5, 1000, 1e-7],
    },
}
"""The keys of the original project's files."""


def refusal(file_keys: dict[str, Any], flags: dict[str, Any] | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        resolve_config(file_keys, flags or {}, "my.yaml")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_nothing_given_gives_the_defaults() -> None:
    settled = resolve_config({}, {})
    assert settled.config == TrainConfig()
    assert settled.notices == ()


def test_the_original_projects_file_runs_as_it_is() -> None:
    settled = resolve_config(ORIGINAL, {}, "old.yaml")
    config = settled.config
    assert config.iters == 1000
    assert config.epochs is None
    assert config.lora_parameters.keys == ("self_attn.q_proj", "self_attn.v_proj")
    assert config.lora_parameters.scale == 2.0
    assert config.lr_schedule == ScheduleConfig(
        name="cosine_decay", arguments=(1e-5, 1000, 1e-7), warmup=100, warmup_init=1e-7
    )
    assert settled.notices == ("lora_parameters has no scale; alpha 8 over rank 4 makes it 2.",)


def test_scale_wins_over_alpha_and_that_is_said() -> None:
    settled = resolve_config({"lora_parameters": {"rank": 4, "alpha": 8, "scale": 8.0}}, {})
    assert settled.config.lora_parameters.scale == 8.0
    assert settled.notices == ("lora_parameters: scale 8 is used; alpha 8 over rank 4 would be 2.",)


def test_alpha_that_says_the_same_as_scale_needs_no_words() -> None:
    settled = resolve_config({"lora_parameters": {"rank": 4, "alpha": 8, "scale": 2}}, {})
    assert settled.notices == ()


def test_lora_parameters_may_be_partial_and_hold_nulls() -> None:
    lora = resolve_config({"lora_parameters": {"rank": 16, "keys": None, "scale": None}}, {}).config
    assert lora.lora_parameters.rank == 16
    assert lora.lora_parameters.dropout == 0.05
    assert lora.lora_parameters.scale == 2.0


def test_a_flag_wins_over_the_file_and_the_file_over_the_default() -> None:
    file_keys = {"batch_size": 8, "clear_cache_threshold": 5, "seed": 3, "mask_prompt": False}
    config = resolve_config(file_keys, {"batch_size": 1, "seed": 0, "mask_prompt": None}).config
    assert (config.batch_size, config.clear_cache_threshold, config.seed) == (1, 5, 0)
    assert config.mask_prompt is False


def test_a_switch_can_be_turned_off_by_a_flag() -> None:
    config = resolve_config({"grad_checkpoint": True}, {"grad_checkpoint": False}).config
    assert config == TrainConfig()


def test_null_means_the_default() -> None:
    keys = ("batch_size", "seed", "model", "lr_schedule", "optimizer", "lora_parameters", "iters")
    assert resolve_config(dict.fromkeys(keys), {}).config == TrainConfig()


def test_patience_can_be_switched_off_in_a_file_and_by_a_flag() -> None:
    assert resolve_config({"patience": None}, {}).config.patience is None
    assert resolve_config({}, {"patience": 0}).config.patience is None


@pytest.mark.parametrize(
    ("file_keys", "flags", "length", "notice"),
    [
        (
            {"iters": 9, "epochs": 2},
            {},
            (9, None),
            "Both iters and epochs are given; iters takes precedence.",
        ),
        ({}, {"iters": 9, "epochs": 2.0}, (9, None), "Both iters and epochs are given; iters"),
        (
            {"iters": 9},
            {"epochs": 2.0},
            (None, 2.0),
            "--epochs takes precedence over the file's iters.",
        ),
        ({"epochs": 2}, {"iters": 9}, (9, None), None),
        ({"epochs": 2}, {}, (None, 2.0), None),
    ],
)
def test_iters_wins_over_epochs_but_a_flag_over_the_file(
    file_keys: dict[str, Any],
    flags: dict[str, Any],
    length: tuple[int | None, float | None],
    notice: str | None,
) -> None:
    settled = resolve_config(file_keys, flags)
    assert (settled.config.iters, settled.config.epochs) == length
    assert len(settled.notices) == (notice is not None)
    assert all(said.startswith(notice or "") for said in settled.notices)


def test_a_typed_rate_is_not_hidden_by_the_files_schedule() -> None:
    settled = resolve_config(ORIGINAL, {"learning_rate": 3e-5})
    assert settled.config.lr_schedule is not None
    assert settled.config.lr_schedule.arguments == (3e-5, 1000, 1e-7)
    assert "lr_schedule starts from --learning-rate 3e-05, not from 1e-05." in settled.notices


def test_a_rate_hidden_by_the_schedule_is_said() -> None:
    settled = resolve_config({**ORIGINAL, "learning_rate": 2e-5}, {})
    assert "lr_schedule starts from 1e-05; learning_rate 2e-05 is not used." in settled.notices


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("batch_sise", "batch_size"),
        ("learning-rate", "learning_rate"),
        ("lora_layers", "num_layers"),
        ("rank", "lora_parameters.rank"),
        ("alpha", "lora_parameters.alpha"),
        ("warmup", "lr_schedule.warmup"),
    ],
)
def test_an_unknown_key_is_named_with_its_file_and_the_nearest(key: str, nearest: str) -> None:
    assert refusal({key: 1}) == (
        f"{key} in my.yaml is not a key of verse train; did you mean {nearest}?"
    )


def test_unknown_keys_further_down_are_named_too() -> None:
    assert "lora_parameters.rnk in my.yaml is not a key" in refusal({"lora_parameters": {"rnk": 1}})
    assert "did you mean lr_schedule.arguments?" in refusal({"lr_schedule": {"argument": []}})
    assert "did you mean optimizer_config.adamw?" in refusal({"optimizer_config": {"adaw": {}}})
    assert "did you mean optimizer_config.adam.betas?" in refusal(
        {"optimizer_config": {"adam": {"beta": 1}}}
    )
    assert refusal({"zzz": 1}) == "zzz in my.yaml is not a key of verse train."


@pytest.mark.parametrize(
    ("file_keys", "sentence"),
    [
        ({"batch_size": "4"}, "batch_size in my.yaml must be a whole number, not text."),
        ({"batch_size": 0}, "batch_size in my.yaml must be a whole number >= 1."),
        ({"batch_size": 1.5}, "batch_size in my.yaml must be a whole number, not a number."),
        ({"train": "yes"}, "train in my.yaml must be true or false, not text."),
        ({"learning_rate": 0}, "learning_rate in my.yaml must be a number > 0"),
        ({"fine_tune_type": "lore"}, "fine_tune_type in my.yaml is 'lore'; choose lora, dora"),
        (
            {"lora_parameters": 3},
            "lora_parameters in my.yaml must be keys with values, not a whole",
        ),
        ({"lora_parameters": {"keys": "q"}}, "lora_parameters.keys in my.yaml must be a list, not"),
        ({"lora_parameters": {"alpha": "x"}}, "lora_parameters.alpha in my.yaml must be a number"),
        (
            {"lora_parameters": {"dropout": 1}},
            "lora_parameters.dropout in my.yaml must be a number",
        ),
        ({"lr_schedule": {"warmup": 1}}, "lr_schedule in my.yaml: name is missing."),
        ({"clear_cache_threshold": "2 tons"}, "clear_cache_threshold in my.yaml is '2 tons'"),
        ({"val_batches": 0}, "val_batches 0 measures nothing; -1 takes the whole set."),
    ],
)
def test_a_wrong_value_is_one_sentence_with_its_key(
    file_keys: dict[str, Any], sentence: str
) -> None:
    assert sentence in refusal(file_keys)


def test_a_wrong_flag_does_not_blame_the_file() -> None:
    assert refusal({"seed": 1}, {"batch_size": 0}) == "batch_size must be a whole number >= 1."


def test_sizes_may_have_a_unit_as_in_mlx_lm() -> None:
    from mlx_lm.utils import _parse_size  # pyright: ignore[reportPrivateUsage]

    for size in ("2GB", "500MB", "1.5G", "7", "3 M"):
        config = resolve_config({"clear_cache_threshold": size}, {}).config
        assert config.clear_cache_threshold == _parse_size(size)
