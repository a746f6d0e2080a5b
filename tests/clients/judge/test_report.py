"""A judge held against the poet: what counts, and what is said about it."""

import json
import random
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from tests.clients.judge.conftest import decisions
from tests.clients.judge.simulated import poems
from verse import cli, jsonl
from verse.records import Candidate, Decision, JournalEntry, PairDecision, RubricScores, Undo
from verse_clients.judge.ranked import (
    Comparison,
    Exclusion,
    JudgeSummary,
    Ranked,
    RankedPoem,
    Use,
    mean_scores,
    write_json,
)
from verse_clients.judge.report import Report, make_report
from verse_clients.plotting import write_png

TIME = datetime(2026, 3, 1, tzinfo=UTC)
Score = Callable[[Candidate], float]


def rubric(value: float) -> RubricScores:
    value = min(max(round(value), 0), 5)
    return RubricScores(
        theme_adherence=3, poetic_quality=value, fluency=5 - value, emotional_resonance=3
    )


def ranking(
    candidates: Sequence[Candidate], score: Score, *judges: str, **changes: object
) -> Ranked:
    names = judges or ("base",)
    ordered = sorted(candidates, key=lambda poem: -score(poem))
    rows = [
        RankedPoem(
            candidate=poem,
            score=score(poem),
            total=score(poem),
            rank=rank,
            rubric=mean_scores([rubric(score(poem))]),
            by_judge={name: rubric(score(poem)) for name in names},
        )
        for rank, poem in enumerate(ordered, 1)
    ]
    summaries = tuple(JudgeSummary(name=name, model=name, server="http://x/v1") for name in names)
    made = Ranked(judges=summaries, poems=tuple(rows))
    return msgspec.structs.replace(made, **changes)


def taste(candidates: Sequence[Candidate], seed: int = 0) -> list[bool]:
    rng = random.Random(seed)
    return [rng.random() < 0.4 for _ in candidates]


def likes(candidates: Sequence[Candidate], taken: Sequence[bool], noise: float) -> Score:
    """A judge that shares the poet's taste, with noise."""
    rng = random.Random(1)
    scores = {
        poem.id: 2 + took + rng.gauss(0, noise)
        for poem, took in zip(candidates, taken, strict=True)
    }
    return lambda poem: scores[poem.id]


def report(
    noise: float, count: int = 100, entries: Sequence[JournalEntry] = (), **changes: object
) -> Report:
    candidates = poems(count)
    taken = taste(candidates)
    made = ranking(candidates, likes(candidates, taken, noise), **changes)
    return make_report(made, [*decisions(candidates, taken), *entries])


def test_a_judge_with_the_poets_taste_is_told_to_have_it() -> None:
    made = report(0.5)
    final = made.scorer("ranking")
    assert final is not None
    assert final.auc.low > 0.7
    assert final.kappa.low > 0
    assert final.auc.low < final.auc.value < final.auc.high
    assert made.verdict.startswith("This judge agrees with the poet: AUC 0.9")
    assert made.num_decisions == 100


def test_a_judge_that_guesses_is_to_be_ignored() -> None:
    made = report(99.0)
    final = made.scorer("ranking")
    assert final is not None
    assert final.auc.low < 0.5 < final.auc.high
    assert final.kappa.low < 0 < final.kappa.high
    assert made.verdict.startswith("Ignore this judge")


def test_a_judge_of_the_opposite_taste_is_told() -> None:
    candidates = poems(100)
    taken = taste(candidates)
    score = likes(candidates, [not took for took in taken], 0.5)
    made = make_report(ranking(candidates, score), decisions(candidates, taken))
    assert "ranks last" in made.verdict


def test_under_fifty_decisions_no_verdict_is_given() -> None:
    assert report(0.5, 49).verdict.startswith("Not enough decisions: 49 of 50")
    assert report(0.5, 50).verdict.startswith("This judge agrees")


def test_a_poet_who_takes_everything_tells_nothing() -> None:
    candidates = poems(60)
    made = make_report(
        ranking(candidates, lambda poem: float(len(poem.id))),
        decisions(candidates, [True] * 60),
    )
    assert made.scorers == ()
    assert made.verdict.startswith("No result")


def test_trivial_numbers_stand_beside_the_judge() -> None:
    made = report(0.5)
    baselines = {s.name: s.auc.value for s in made.scorers if s.kind == "baseline"}
    assert set(baselines) == {"longest", "shortest", "random"}
    assert baselines["longest"] == pytest.approx(1 - baselines["shortest"])


def test_a_judge_that_only_counts_characters_is_found_out() -> None:
    rng = random.Random(0)
    candidates = [
        msgspec.structs.replace(poem, text=poem.text + "\n" + "河" * rng.randrange(60))
        for poem in poems(100)
    ]
    taken = [len(poem.text) + rng.gauss(0, 15) > 55 for poem in candidates]
    made = make_report(
        ranking(candidates, lambda poem: len(poem.text) / 20), decisions(candidates, taken)
    )
    assert made.length == pytest.approx(1.0)
    assert made.verdict.startswith("Poem length alone")


def test_only_blind_decisions_count_and_the_others_are_told() -> None:
    candidates = poems(100)
    taken = taste(candidates)
    made = ranking(candidates, likes(candidates, taken, 0.5))
    seen = decisions(candidates[:30], taken[:30], blind=False)
    report_ = make_report(made, [*seen, *decisions(candidates[30:], taken[30:])])
    assert (report_.num_decisions, report_.num_not_blind) == (70, 30)
    # Deciding again in view of the score does not undo the blind word.
    again = decisions(candidates[30:40], [not took for took in taken[30:40]], blind=False)
    more = make_report(made, [*seen, *decisions(candidates[30:], taken[30:]), *again])
    assert more.scorers == report_.scorers


def test_decisions_of_old_journals_that_do_not_say_the_order_shown_do_not_count() -> None:
    candidates = poems(100)
    taken = taste(candidates)
    made = ranking(candidates, likes(candidates, taken, 0.5))
    old = [msgspec.structs.replace(entry, order=None) for entry in decisions(candidates, taken)]
    report_ = make_report(made, old)
    assert (report_.num_decisions, report_.num_not_blind, report_.scorers) == (0, 100, ())
    # A decision made blind afterwards counts, and the old one does not take it back.
    report_ = make_report(made, [*decisions(candidates[:10], taken[:10]), *old])
    assert (report_.num_decisions, report_.num_not_blind) == (10, 90)


def test_what_was_taken_back_and_what_decides_nothing_does_not_count() -> None:
    candidates = poems(60)
    taken = taste(candidates)
    entries: list[JournalEntry] = [*decisions(candidates, taken)]
    made = ranking(candidates, likes(candidates, taken, 0.5))
    entries.append(Undo(undone=1, time=TIME))
    entries += [
        Decision(action=action, candidate=candidates[0], blind=True, order="shuffle", time=TIME)
        for action in ("skip", "rate")
    ]
    assert make_report(made, entries).num_decisions == 59


@pytest.mark.parametrize("use", ["example", "calibration"])
def test_poems_that_the_judging_used_are_never_scored(use: Use) -> None:
    candidates = poems(100)
    taken = taste(candidates)
    made = ranking(candidates, likes(candidates, taken, 0.5))
    used = {poem.id for poem in candidates[:20]}
    marked = [
        msgspec.structs.replace(row, seen=use) if row.candidate.id in used else row
        for row in made.poems
    ]
    entries = decisions(candidates, taken)
    found = make_report(msgspec.structs.replace(made, poems=tuple(marked)), entries)
    assert (found.num_decisions, found.num_used) == (80, 20)
    without = make_report(made, entries[20:])
    assert found.scorer("ranking") == without.scorer("ranking")


def test_the_criterion_that_tells_the_taste_is_named() -> None:
    made = report(0.6)
    assert made.taste.startswith(
        "The criterion that best predicts this poet's decisions is poetic_quality"
    )
    assert report(99.0).taste == "No single criterion predicts this poet's decisions."
    names = {s.name for s in made.scorers if s.kind == "criterion"}
    assert names == {"theme_adherence", "poetic_quality", "fluency", "emotional_resonance"}


def test_a_judge_that_always_picks_the_first_is_exposed() -> None:
    candidates = poems(20)
    rng = random.Random(0)
    shown = [tuple(rng.sample([p.id for p in candidates], 5)) for _ in range(20)]
    shown += [batch[::-1] for batch in shown[:3]]
    heard = tuple(Comparison(judge="base", shown=batch, ranking=batch) for batch in shown)
    found = make_report(ranking(candidates, lambda _: 3.0, comparisons=heard), [])
    (judge,) = found.judges
    assert judge.consistency.first_picks.share == 1.0
    assert judge.consistency.chance == pytest.approx(0.2)
    assert judge.consistency.prefers_first
    assert judge.consistency.flips.share == 1.0
    assert judge.consistency.flips.total >= 30


def test_judges_are_compared_with_each_other() -> None:
    candidates = poems(60)
    rng = random.Random(0)
    made = ranking(candidates, lambda _: 3.0, "a", "b", "c")
    rows: list[RankedPoem] = []
    for row in made.poems:
        value = rng.uniform(0, 5)
        scores = {"a": value, "b": value, "c": rng.uniform(0, 5)}
        rows.append(
            msgspec.structs.replace(row, by_judge={
                name: RubricScores(
                    theme_adherence=round(score), poetic_quality=round(score),
                    fluency=round(score), emotional_resonance=round(score),
                )
                for name, score in scores.items()
            })
        )  # fmt: skip
    found = make_report(msgspec.structs.replace(made, poems=tuple(rows)), [])
    pairs = {(pair.one, pair.other): pair for pair in found.between}
    assert pairs["a", "b"].spearman == pytest.approx(1.0)
    assert pairs["a", "b"].kappa == pytest.approx(1.0)
    assert abs(pairs["a", "c"].kappa) < 0.4
    assert pairs["a", "c"].num_poems == 60


def test_pairs_the_poet_compared_are_held_against_the_ranking() -> None:
    one, two = poems(2)
    made = ranking([one, two], lambda poem: 4.0 if poem.id == one.id else 1.0)

    def pair(verdict: str, *, blind: bool = True) -> PairDecision:
        return PairDecision(
            left=two,
            right=one,
            verdict=verdict,  # pyright: ignore
            blind=blind,
            order="shuffle",
            time=TIME,
        )

    assert make_report(made, [pair("right")]).pairs == (1, 1)
    assert make_report(made, [pair("left")]).pairs == (0, 1)
    assert make_report(made, [pair("tie")]).pairs == (0, 0)
    assert make_report(made, [pair("right", blind=False)]).pairs == (0, 0)
    unordered = msgspec.structs.replace(pair("right"), order=None)
    assert make_report(made, [unordered]).pairs == (0, 0)


def test_what_filters_left_out_and_the_poet_took_is_told() -> None:
    candidates = poems(10)
    made = ranking(candidates[2:], lambda _: 3.0)
    left_out = tuple(
        RankedPoem(candidate=poem, filtered=Exclusion(reason="near")) for poem in candidates[:2]
    )
    changed = msgspec.structs.replace(made, poems=made.poems + left_out)
    found = make_report(changed, decisions(candidates, [True, False] * 5))
    assert found.filtered_taken == (1, 2)
    assert found.num_decisions == 8
    assert found.num_elsewhere == 0


def write_files(noise: float, count: int = 60) -> None:
    candidates = poems(count)
    taken = taste(candidates)
    write_json(Path("ranked.json"), ranking(candidates, likes(candidates, taken, noise)))
    jsonl.append(Path("decisions.jsonl"), *decisions(candidates, taken))


def test_the_command_prints_the_report_and_draws_it(capfd: pytest.CaptureFixture[str]) -> None:
    write_files(0.5)
    assert cli.main(["judge", "report", "--decisions", "decisions.jsonl"]) == 0
    said = capfd.readouterr().out
    assert "This judge agrees with the poet" in said
    for word in ("longest", "shortest", "random", "flips", "picks the"):
        assert word in said
    for name in ("agreement.png", "ranks.png", "length.png"):
        assert (Path("judge-report") / name).read_bytes().startswith(b"\x89PNG")
        assert name in said
    assert cli.main(["judge", "report", "-o", "plots", "--json"]) == 0
    told = json.loads(capfd.readouterr().out)
    assert told["num_decisions"] == 60
    assert told["scorers"][0]["name"] == "ranking"
    assert (Path("plots") / "ranks.png").exists()


def test_a_report_without_a_verdict_leaves_out_the_plot_and_any_name_can_be_drawn(
    capfd: pytest.CaptureFixture[str],
) -> None:
    candidates = poems(6)
    ranked = ranking(candidates, likes(candidates, taste(candidates), 0.5))
    write_json(Path("ranked.json"), ranked)
    jsonl.append(Path("decisions.jsonl"), *decisions(candidates, [True] * 6))
    assert cli.main(["judge", "report"]) == 0
    told = capfd.readouterr()
    assert "No result: " in told.out
    assert told.err == ""
    assert not (Path("judge-report") / "agreement.png").exists()
    named = write_png(Path("named.png"), lambda axes: bool(axes.set_title("评委")))
    assert named is not None
    assert named.exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["-d", "nowhere.jsonl"], "nowhere.jsonl cannot be read"),
        (["-i", "nowhere.json"], "nowhere.json cannot be read"),
        (["-i", "poems.jsonl"], "poems.jsonl is not a ranking from verse judge"),
        (["-d", "ranked.json"], "It holds no decisions"),
    ],
)
@pytest.mark.parametrize("command", ["report", "calibrate"])
def test_each_mistake_is_one_sentence(
    command: str, arguments: list[str], said: str, capfd: pytest.CaptureFixture[str]
) -> None:
    write_files(0.5)
    assert cli.main(["judge", command, *arguments]) == 2
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 1
    assert said in lines[0]
