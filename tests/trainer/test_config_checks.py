"""What a configuration may not ask for."""

import inspect
from typing import Any

import pytest

from verse_trainer.config_checks import OPTIMIZER_ARGUMENTS
from verse_trainer.config_load import resolve_config
from verse_trainer.errors import ConfigError


def refusal(file_keys: dict[str, Any], **flags: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        resolve_config(file_keys, flags, "my.yaml")
    return str(caught.value)


def test_the_optimizers_arguments_are_mlxs() -> None:
    import mlx.optimizers as optimizers

    for kind in (
        optimizers.Adam,
        optimizers.AdamW,
        optimizers.Muon,
        optimizers.SGD,
        optimizers.Adafactor,
    ):
        arguments = set(inspect.signature(kind).parameters) - {"learning_rate"}
        assert OPTIMIZER_ARGUMENTS[kind.__name__.lower()] == arguments


@pytest.mark.parametrize(
    "key", ["hf_dataset", "prompt_feature", "completion_feature", "text_feature", "chat_feature"]
)
def test_mlx_lms_keys_that_have_no_place_are_refused_with_what_to_do(key: str) -> None:
    assert "`verse data import`" in refusal({key: "x"})
    assert resolve_config({key: None}, {}).notices == ()


def test_config_inside_a_file_is_said_not_to_be_read() -> None:
    assert resolve_config({"config": "a.yaml"}, {}, "b.json").notices == (
        "`config` in b.json names the file it was made from; it is ignored.",
    )
    assert resolve_config({"config": None}, {}).notices == ()


def test_only_a_flag_can_trust_a_models_code() -> None:
    assert "give --trust-remote-code" in refusal({"trust_remote_code": True})
    assert resolve_config(
        {"trust_remote_code": True}, {"trust_remote_code": True}
    ).config.trust_remote_code
    assert (
        resolve_config({"trust_remote_code": True}, {"trust_remote_code": False}).config.train
        is not False
    )


def test_contradictions_are_refused() -> None:
    assert "nothing to do" in refusal({"train": False})
    assert "sample_themes" in refusal({"sample_every": 5, "sample_themes": []})


def test_report_to_names_a_known_service_whose_package_is_there() -> None:
    assert refusal({"report_to": "wandb, tensorboard"}).startswith("report_to ")
    assert refusal({"report_to": "tensorboard"}) == (
        "report_to 'tensorboard' is unknown; there are wandb, swanlab."
    )
    assert refusal({"report_to": "swanlab"}) == (
        "report_to swanlab needs its package: pip install swanlab"
    )


@pytest.mark.parametrize(
    ("schedule", "sentence"),
    [
        ({"name": "cosine"}, "lr_schedule.name 'cosine' is unknown; did you mean cosine_decay?"),
        ({"name": "join_schedules"}, "lr_schedule.name 'join_schedules' is unknown;"),
        ({"name": "step_decay", "arguments": [1]}, "lr_schedule.arguments: step_decay takes 3,"),
        ({"name": "cosine_decay", "arguments": [1, 2, 3, 4]}, "cosine_decay takes 0 to 3, not 4."),
    ],
)
def test_schedules_that_mlx_does_not_have_are_refused(
    schedule: dict[str, Any], sentence: str
) -> None:
    assert sentence in refusal({"lr_schedule": schedule})


def test_what_is_not_used_is_said() -> None:
    settled = resolve_config(
        {
            "optimizer_config": {"adam": {"eps": 1e-6}, "sgd": {}, "adamw": None},
            "project_name": "poems",
        },
        {},
    )
    assert settled.notices == (
        "optimizer_config.adam is not used: the optimizer is adamw.",
        "project_name is not used: report_to names no service.",
    )
