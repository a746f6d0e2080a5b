"""What the pages beside the shipped files say about them is true."""

import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from verse.adapter_folder import read_adapter_folder
from verse.prompt import PromptFormat

PROJECT = Path(__file__).parents[2]
ADAPTERS_PAGE = (PROJECT / "adapters" / "README.md").read_text("utf-8")
MODEL_CARD = (PROJECT / "models" / "verse-tiny" / "README.md").read_text("utf-8")
EXAMPLES = re.findall(
    r"^\| `([\w-]+)` \| .* \| (\d+) \| ([\d.]+) \| ([\d.]+) \|$", ADAPTERS_PAGE, flags=re.MULTILINE
)
TRAINED_HERE = {"daiwangshu", "hushi", "liubannong", "verse-sample", "wenyiduo", "xuzhimo"}
EXAMPLE_NAMES = TRAINED_HERE | {"libai", "wangwei"}


def read_json(*parts: str) -> dict[str, Any]:
    return json.loads(PROJECT.joinpath(*parts).read_text("utf-8"))


def test_every_example_adapter_has_its_row() -> None:
    assert {row[0] for row in EXAMPLES} == EXAMPLE_NAMES


@pytest.mark.parametrize(("name", "step", "base_loss", "loss"), EXAMPLES)
def test_the_figures_of_an_example_are_those_of_its_training(
    name: str, step: str, base_loss: str, loss: str
) -> None:
    config = read_json("adapters", name, "adapter_config.json")
    best = min(config["history"], key=lambda entry: entry["valid_loss"])
    assert int(step) == config["best_step"] == best["step"]
    assert base_loss == f"{config['base_valid_loss']:.2f}"
    assert loss == f"{best['valid_loss']:.2f}"
    assert config["lora_parameters"]["rank"] == 8
    assert config["lora_parameters"]["scale"] == 2.0


@pytest.mark.parametrize("name", sorted(EXAMPLE_NAMES))
def test_an_example_records_its_prompt_and_its_best_checkpoint(name: str) -> None:
    folder = read_adapter_folder(PROJECT / "adapters" / name)
    assert folder.prompt_format is not None
    assert folder.prompt_format.system
    assert folder.published is not None
    best = folder.checkpoints[read_json("adapters", name, "adapter_config.json")["best_step"]]
    assert best.read_bytes() == folder.published.read_bytes()


@pytest.mark.parametrize("name", sorted(TRAINED_HERE))
def test_an_example_trained_here_says_how(name: str) -> None:
    run = read_json("adapters", name, "run.json")
    assert run["base"] == "verse-tiny"
    assert run["num_valid_rows"] == len(run["valid_sources"])
    assert (PROJECT / "adapters" / name / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert (PROJECT / "adapters" / name / "metrics.jsonl").is_file()


def test_the_page_explains_every_field_of_prompt_json() -> None:
    (example,) = re.findall(r"```json\n(.*?)```", ADAPTERS_PAGE, flags=re.DOTALL)
    msgspec.json.decode(example, type=PromptFormat)
    section = ADAPTERS_PAGE.split("## prompt.json")[1].split("## ")[0]
    explained = set(re.findall(r"^\| `(\w+)` \|", section, flags=re.MULTILINE))
    assert explained == {field.name for field in msgspec.structs.fields(PromptFormat)}


def test_the_model_card_has_the_figures_of_the_configuration() -> None:
    config = read_json("models", "verse-tiny", "config.json")
    hidden, mlp = config["hidden_size"], config["intermediate_size"]
    heads, head = config["num_attention_heads"], config["head_dim"]
    embedding = config["vocab_size"] * hidden
    attention = 4 * hidden * heads * head + 3 * heads * head
    block = attention + 3 * hidden * mlp + 2 * hidden
    total = embedding + config["num_hidden_layers"] * block + hidden
    rows = dict(re.findall(r"^\| ([^|]+?) \| ([^|]+?) \|$", MODEL_CARD, flags=re.MULTILINE))
    assert rows["parameters"].startswith(f"{total:,}, of which {embedding:,} are the embedding")
    assert rows["layers"] == str(config["num_hidden_layers"])
    assert rows["hidden size"] == f"{hidden}; MLP {mlp}, SiLU"
    assert rows["attention heads"].startswith(f"{heads} of {head} dimensions")
    assert rows["context"].startswith(f"{config['max_position_embeddings']} declared")
    assert rows["vocabulary"] == f"{config['vocab_size']:,}"
