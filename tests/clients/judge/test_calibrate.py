"""Weights from the poet's decisions."""

import random
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import numpy as np
import pytest

from tests.clients.judge.conftest import decisions
from tests.clients.judge.simulated import poems
from verse import cli, jsonl
from verse.records import RubricScores
from verse_clients.errors import InputError
from verse_clients.judge.calibrate import fit_weights, learn
from verse_clients.judge.ranked import (
    JudgeSummary,
    Ranked,
    RankedPoem,
    Weights,
    mean_scores,
    write_json,
)
from verse_clients.judge.run import read_weights

Taste = Callable[[RubricScores], float]


def judged(count: int, seed: int = 0) -> tuple[Ranked, list[RubricScores]]:
    """Poems with scores by chance."""
    rng = random.Random(seed)
    scores = [
        RubricScores(
            theme_adherence=rng.randint(0, 5),
            poetic_quality=rng.randint(0, 5),
            fluency=rng.randint(0, 5),
            emotional_resonance=rng.randint(0, 5),
        )
        for _ in range(count)
    ]
    rows = [
        RankedPoem(candidate=poem, score=2.5, rank=1, rubric=mean_scores([score]))
        for poem, score in zip(poems(count), scores, strict=True)
    ]
    judge = JudgeSummary(name="base", model="base", server="http://x/v1")
    return Ranked(judges=(judge,), poems=tuple(rows)), scores


def verdicts(scores: Sequence[RubricScores], taste: Taste, noise: float = 1.0) -> list[bool]:
    rng = random.Random(1)
    return [taste(score) + rng.gauss(0, noise) > 0 for score in scores]


def picky(score: RubricScores) -> float:
    """Cares for poetry above all, a little for feeling, not for the rest."""
    return score.poetic_quality - 2.5 + 0.4 * (score.emotional_resonance - 2.5)


def test_the_poets_taste_is_learned_and_helps_on_decisions_not_learned_from() -> None:
    ranked, scores = judged(120)
    candidates = [poem.candidate for poem in ranked.poems]
    learned = learn(ranked, decisions(candidates, verdicts(scores, picky)))
    weights = msgspec.structs.asdict(learned.weights)
    assert sum(weights.values()) == pytest.approx(1, abs=1e-3)
    assert weights["poetic_quality"] > 0.5
    assert weights["poetic_quality"] > weights["emotional_resonance"] > weights["fluency"]
    assert learned.auc_before is not None
    assert learned.auc_after is not None
    assert learned.gain is not None
    assert learned.auc_after[0] > learned.auc_before[0] + 0.05
    assert learned.gain[1] > 0
    assert learned.trained_on == tuple(poem.id for poem in candidates)


def test_a_taste_for_everything_gains_nothing() -> None:
    ranked, scores = judged(120)
    even = verdicts(scores, lambda s: sum(msgspec.structs.astuple(s)) - 10.0, noise=2.0)
    learned = learn(ranked, decisions([poem.candidate for poem in ranked.poems], even))
    assert learned.gain is not None
    assert learned.gain[1] < 0.02
    assert all(weight > 0.1 for weight in msgspec.structs.astuple(learned.weights))


def test_weights_are_never_below_zero() -> None:
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 6, size=(100, 4)).astype(float)
    weights = fit_weights(scores, scores[:, 0] - scores[:, 2] > 0)
    assert (weights >= 0).all()
    assert weights[2] == 0


def test_a_criterion_that_is_always_the_same_counts_for_nothing() -> None:
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 6, size=(100, 4)).astype(float)
    scores[:, 3] = 3.0
    weights = fit_weights(scores, scores[:, 1] > 2)
    assert weights[3] == 0
    assert weights[1] == max(weights)


@pytest.mark.parametrize("count", [10, 49])
def test_too_few_decisions_teach_nothing(count: int) -> None:
    ranked, scores = judged(count)
    entries = decisions([poem.candidate for poem in ranked.poems], verdicts(scores, picky))
    with pytest.raises(InputError, match=f"{count} blind decisions"):
        learn(ranked, entries)


def test_decisions_in_view_of_the_score_and_examples_teach_nothing() -> None:
    ranked, scores = judged(60)
    candidates = [poem.candidate for poem in ranked.poems]
    entries = decisions(candidates, verdicts(scores, picky), blind=False)
    with pytest.raises(InputError, match="0 blind decisions"):
        learn(ranked, entries)
    shown = tuple(msgspec.structs.replace(poem, seen="example") for poem in ranked.poems[:20])
    changed = msgspec.structs.replace(ranked, poems=shown + ranked.poems[20:])
    with pytest.raises(InputError, match="40 blind decisions"):
        learn(changed, decisions(candidates, verdicts(scores, picky)))


def test_a_taste_that_no_criterion_tells_is_refused() -> None:
    ranked, scores = judged(100)
    contrary = verdicts(scores, lambda s: 10.0 - sum(msgspec.structs.astuple(s)), noise=0.1)
    with pytest.raises(InputError, match="No criterion predicts"):
        learn(ranked, decisions([poem.candidate for poem in ranked.poems], contrary))


def test_the_command_writes_weights_that_judge_reads(capfd: pytest.CaptureFixture[str]) -> None:
    ranked, scores = judged(80)
    write_json(Path("ranked.json"), ranked)
    candidates = [poem.candidate for poem in ranked.poems]
    jsonl.append(Path("decisions.jsonl"), *decisions(candidates, verdicts(scores, picky)))
    assert cli.main(["judge", "calibrate"]) == 0
    said = capfd.readouterr().out
    assert "poetic_quality" in said
    assert "AUC on 80 decisions" in said
    learned = read_weights(Path("weights.json"))
    assert learned.weights != Weights()
    assert len(learned.trained_on) == 80
