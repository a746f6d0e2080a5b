"""Preference tuning."""

import json
import math
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from tests.trainer.runs import POEMS, Runs, fresh, pairs, write_data, write_rows
from verse.prompt import POEM_SYSTEM
from verse_trainer import run
from verse_trainer.config import LoraConfig, TrainConfig
from verse_trainer.dpo import DpoObjective, EncodedPair
from verse_trainer.errors import DataSetError
from verse_trainer.events import Evaluated, TrainReport
from verse_trainer.objective import TokenLoss, WholeLoss, collate


def dpo(runs: Runs, **changes: Any) -> TrainConfig:
    settings = {"method": "dpo", "epochs": 6, "steps_per_report": 2, "patience": None}
    return runs.config(**{**settings, **changes})


def write_pairs(runs: Runs, num_valid: int = 2) -> None:
    write_rows(runs.data / "train.jsonl", pairs(4))
    if num_valid:
        write_rows(runs.data / "valid.jsonl", pairs(num_valid))


def test_it_moves_the_margin_of_a_planted_preference(runs: Runs) -> None:
    write_pairs(runs)
    outcome = runs.train(dpo(runs))
    first, last = runs.reported(Evaluated)[0], runs.reported(Evaluated)[-1]
    assert first.preference.margin == pytest.approx(0, abs=1e-5)
    assert last.preference.margin > 0.5
    assert last.preference.accuracy == 1
    assert last.preference.chosen_logp > first.preference.chosen_logp
    assert last.preference.rejected_logp < last.preference.chosen_logp
    assert last.valid_loss < first.valid_loss
    assert outcome.best_step == last.step
    reports = [report.preference for report in runs.reported(TrainReport)]
    assert reports[-1].margin > reports[0].margin


def test_before_the_first_step_the_loss_is_that_of_a_coin_and_the_sft_term(runs: Runs) -> None:
    write_pairs(runs)
    prepared = runs.prepare(dpo(runs, epochs=1, sft_weight=0.25))
    run.train(prepared, runs.events.append)
    model = fresh(runs.base).model
    nll = TokenLoss(model)
    chosen = [pair.chosen for pair in prepared.material.pairs["valid"]]  # pyright: ignore
    per_token = [nll(model, collate([row])).item() / row.weight for row in chosen]
    expected = math.log(2) + 0.25 * sum(per_token) / len(per_token)
    assert runs.reported(Evaluated)[0].valid_loss == pytest.approx(expected, rel=1e-4)


def objective(runs: Runs, **keys: float) -> tuple[Any, DpoObjective, list[EncodedPair]]:
    write_pairs(runs)
    prepared = runs.prepare(dpo(runs))
    found = list(prepared.material.pairs["train"])  # pyright: ignore[reportOptionalSubscript]
    model = fresh(runs.base).model
    settings = {"beta": 0.5, "sft_weight": 0.0, **keys}
    return model, DpoObjective(WholeLoss(model), {"train": found}, **settings), found


def test_the_loss_is_that_of_the_paper(runs: Runs, tmp_path: Path) -> None:
    model, aim, found = objective(runs)
    aim.refer_to(model, tmp_path, "run", batch_size=3)
    references = json.loads((tmp_path / "references.json").read_text())["parts"]["train"]
    other = runs.base.model  # any other weights will do
    other.update({"model": {"norm": {"weight": mx.ones(32) * 1.3}}})
    losses, figures = aim.losses(other, aim.batch("train", (0, 2)))
    nll = TokenLoss(other)
    for place, index in enumerate((0, 2)):
        logps = [
            -nll(other, collate([row])).item()
            for row in (found[index].chosen, found[index].rejected)
        ]
        gains = [logp - reference for logp, reference in zip(logps, references[index], strict=True)]
        margin = 0.5 * (gains[0] - gains[1])
        assert losses[place].item() == pytest.approx(math.log(1 + math.exp(-margin)), rel=1e-3)
        assert figures[place].tolist() == pytest.approx(
            [margin, float(margin > 0), *logps], rel=1e-3
        )


def test_only_the_tokens_of_the_poems_count(runs: Runs) -> None:
    write_pairs(runs)
    prepared = runs.prepare(dpo(runs, mask_prompt=False))
    decode = prepared.base.hf_tokenizer.decode  # pyright: ignore[reportAttributeAccessIssue]
    for pair, (theme, poem) in zip(prepared.material.pairs["train"], POEMS, strict=False):  # pyright: ignore
        row = pair.chosen
        assert decode([row.token_ids[place] for place in row.targets]) == f"{poem}<|im_end|>"
        assert f"<|im_start|>user\n{theme}<|im_end|>" in decode(list(row.token_ids))
        assert POEM_SYSTEM in decode(list(row.token_ids))


def test_references_are_computed_once_and_kept_with_what_they_belong_to(
    runs: Runs, tmp_path: Path
) -> None:
    model, aim, _ = objective(runs)
    aim.refer_to(model, tmp_path, "run", batch_size=2)
    file = tmp_path / "references.json"
    first = file.read_bytes()
    model.update({"model": {"norm": {"weight": mx.ones(32) * 2}}})
    aim.refer_to(model, tmp_path, "run", batch_size=2)
    assert file.read_bytes() == first
    aim.refer_to(model, tmp_path, "another run", batch_size=2)
    assert file.read_bytes() != first


def test_it_goes_on_from_an_adapter_and_refers_to_it(runs: Runs) -> None:
    start = Runs(runs.base, runs.root / "start")
    write_data(start.data)
    start.train(start.config(prompt_format="seed-chatml"))
    write_pairs(runs)
    weights = str(start.folder / "adapters.safetensors")
    config = dpo(runs, epochs=1, resume_adapter_file=weights, prompt_format="seed-chatml")
    prepared = runs.prepare(config)
    assert prepared.notes == ()
    outcome = run.train(prepared, runs.events.append)
    first = runs.reported(Evaluated)[0]
    assert first.preference.margin == pytest.approx(0, abs=1e-5)
    assert outcome.base_valid_loss is None  # what was measured first is no base
    recorded = (runs.folder / "run.json").read_text()
    assert str(start.folder) not in recorded


def test_curated_pairs_are_taken_before_rows_of_another_kind(runs: Runs) -> None:
    write_data(runs.data)
    write_rows(runs.data / "pairs.jsonl", pairs(3))
    prepared = runs.prepare(dpo(runs))
    assert (prepared.num_rows, prepared.num_valid_rows) == (3, 0)
    assert prepared.num_target_tokens == sum(
        pair.chosen.weight + pair.rejected.weight
        for pair in prepared.material.pairs["train"]  # pyright: ignore
    )


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"prompt": "河", "chosen": "一"}], r"train\.jsonl:1: this is not a pair"),
        (
            [*pairs(1), {"prompt": "河", "chosen": "一", "rejected": "一"}],
            r"train\.jsonl:2: .* same",
        ),
        ([{**pairs(1)[0], "answer": "reject"}], r"train\.jsonl:1: it was rejected"),
        ([], "no pairs to learn from"),
    ],
)
def test_what_is_no_pair_is_named(runs: Runs, rows: list[Any], message: str) -> None:
    write_rows(runs.data / "train.jsonl", rows)
    with pytest.raises(DataSetError, match=message):
        runs.prepare(dpo(runs))


def test_a_folder_without_pairs_is_refused_before_the_model_is_loaded(runs: Runs) -> None:
    runs.data.mkdir()
    with pytest.raises(DataSetError, match=r"neither pairs\.jsonl nor train\.jsonl"):
        run.check(dpo(runs))


def test_dropout_is_off_or_its_noise_would_be_a_margin(runs: Runs) -> None:
    write_pairs(runs)
    runs.train(dpo(runs, lora_parameters=LoraConfig(rank=4, dropout=0.5), epochs=1))
    other = Runs(runs.base, runs.root / "other")
    write_pairs(other)
    other.train(dpo(other, lora_parameters=LoraConfig(rank=4, dropout=0.0), epochs=1))
    name = "adapters.safetensors"
    assert (runs.folder / name).read_bytes() == (other.folder / name).read_bytes()
