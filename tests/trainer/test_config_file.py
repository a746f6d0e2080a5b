"""Reading configuration files."""

from pathlib import Path

import pytest

from verse_trainer.config_load import read_config_file
from verse_trainer.errors import ConfigError


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "my.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("written", "value"),
    [("1e-5", 1e-5), ("1E5", 1e5), ("-2.5e-3", -2.5e-3), ("1.e-4", 1e-4), ("0.1", 0.1)],
)
def test_numbers_with_an_exponent_are_numbers(tmp_path: Path, written: str, value: float) -> None:
    path = write(tmp_path, f"learning_rate: {written}")
    assert read_config_file(path) == {"learning_rate": value}


def test_what_only_looks_like_an_exponent_stays_text(tmp_path: Path) -> None:
    assert read_config_file(write(tmp_path, "model: 1e5x")) == {"model": "1e5x"}


def test_mlx_lms_own_loader_reads_the_same(tmp_path: Path) -> None:
    import yaml
    from mlx_lm.lora import yaml_loader

    text = "a: 1e-5\nb: 3\nc: 1.5\nd: null\ne: [1e-5, 1000, 1e-7]\nf: true\ng: 1_000e2\n"
    assert read_config_file(write(tmp_path, text)) == yaml.load(text, yaml_loader)


def test_json_is_read_too(tmp_path: Path) -> None:
    path = write(tmp_path, '{"batch_size": 2, "lora_parameters": {"rank": 4}}')
    assert read_config_file(path) == {"batch_size": 2, "lora_parameters": {"rank": 4}}


def test_an_empty_file_asks_for_nothing(tmp_path: Path) -> None:
    assert read_config_file(write(tmp_path, "# only a comment\n")) == {}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("- a\n- b\n", "my.yaml is not a configuration: it has no `key: value` lines."),
        ("iters: 1\niters: 2\n", "my.yaml:1 is not YAML: iters is given twice."),
        ("lora_parameters:\n  rank: 1\n  rank: 2\n", "my.yaml:2 is not YAML: rank is given twice"),
        ("iters: 1\n  seed: [\n", "my.yaml:2 is not YAML: "),
    ],
)
def test_what_is_wrong_is_reported_with_file_and_line(
    tmp_path: Path, text: str, sentence: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        read_config_file(write(tmp_path, text))
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_one_that_is_no_text_are_reported(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"gone\.yaml cannot be read: No such file"):
        read_config_file(tmp_path / "gone.yaml")
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="not a text file"):
        read_config_file(tmp_path / "bytes.yaml")
