"""The judge that is not asked: measures, standardised scores, and what it does with a server."""

import asyncio
import random
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.clients.judge.conftest import decisions
from verse.prompt import POEM_SYSTEM, Message
from verse.records import Candidate, Judgment, LikelihoodMeasure, LikelihoodScores
from verse_clients.answers import ScoredPrompt, ScoredPrompts, ServedModel, Tokenized
from verse_clients.errors import ServerError, UnknownModelError
from verse_clients.judge.client import JudgeContext
from verse_clients.judge.costs import Budget
from verse_clients.judge.judgments import Judgments, read_judgments
from verse_clients.judge.likelihood import (
    LineScores,
    lines_of_tokens,
    rank_intervals,
    scores_of,
    standardised,
    surprises,
)
from verse_clients.judge.log_probabilities import LikelihoodJudge, contrasts
from verse_clients.judge.pipeline import JudgingPipeline, PipelineOptions, assemble
from verse_clients.judge.prompts import JudgeSampling
from verse_clients.judge.ranked import Ranked
from verse_clients.judge.report import make_report
from verse_clients.server_pool import ServerPool

THEMES = ("河", "灯", "山", "雪", "门", "风")


def poem(theme: str, text: str, adapter: str | None = "xuzhimo", **more: object) -> Candidate:
    return Candidate(theme=theme, text=text, adapter=adapter, **more)  # type: ignore[arg-type]


def poems(number: int) -> list[Candidate]:
    """Each names its theme more or less often."""
    rng = random.Random(1)
    found: list[Candidate] = []
    for place in range(number):
        theme = THEMES[place % len(THEMES)]
        lines = [
            "".join(rng.choice([theme, *"天地人心水火木金土"]) for _ in range(6)) for _ in range(4)
        ]
        found.append(poem(theme, "\n".join(lines), sample=place))
    return found


class Scoring:
    """A server whose base likes the characters of a theme, and whose adapters like all more."""

    base_url = "http://127.0.0.1:8000/v1"
    is_local = True

    async def close(self) -> None:
        """Nothing is open."""

    def __init__(self, *, context: int = 400) -> None:
        self.context = context
        self.served = {"base": "b", "xuzhimo": "x"}
        self.asked: list[tuple[str, list[str]]] = []
        self.frames: list[tuple[str, tuple[Message, ...]]] = []

    async def models(self) -> list[ServedModel]:
        return [ServedModel(id=name, digest=digest) for name, digest in self.served.items()]

    async def model(self, name: str) -> ServedModel:
        if name not in self.served:
            raise UnknownModelError(f"no {name}", status=404)
        return ServedModel(id=name, digest=self.served[name])

    async def tokenize(self, model: str, messages: Sequence[Message]) -> Tokenized:
        self.frames.append((model, tuple(messages)))
        frame = "|".join(message.content for message in messages) + ">"
        return Tokenized(tokens=tuple(map(ord, frame)), max_model_len=self.context)

    async def tokenize_text(self, text: str) -> Tokenized:
        return Tokenized(tokens=tuple(map(ord, text)), max_model_len=self.context)

    async def score(self, model: str, prompts: Sequence[Sequence[int]]) -> ScoredPrompts:
        texts = ["".join(map(chr, prompt)) for prompt in prompts]
        self.asked.append((model, texts))
        scored = tuple(self._scored(model, text) for text in texts)
        return ScoredPrompts(scored, sum(map(len, texts)), self.served[model])

    def _scored(self, model: str, text: str) -> ScoredPrompt:
        theme = text.split(">")[0][-1]
        more = 0.0 if model == "base" else 0.5
        numbers = [None, *((-1.0 if char == theme else -3.0) + more for char in text[1:])]
        return ScoredPrompt(text, tuple(range(len(text))), tuple(numbers))


def context(cache: Path, *, max_calls: int | None = None) -> JudgeContext:
    clock = datetime(2026, 3, 1, tzinfo=UTC)
    return JudgeContext(Judgments(cache), Budget(max_calls), JudgeSampling(), lambda: clock, print)


def run(
    server: Scoring, written: Sequence[Candidate], cache: Path, *, max_calls: int | None = None
) -> JudgingPipeline:
    async def judged() -> JudgingPipeline:
        shared = context(cache, max_calls=max_calls)
        pool = ServerPool(
            [server],
            slots=lambda _: 4,
            wait_seconds=1,
            now=lambda: 0.0,
            sleep=asyncio.sleep,
            report=print,
        )
        judge = LikelihoodJudge(pool, shared, concurrency=4)
        await judge.identify(written)
        made = JudgingPipeline([], written, [], PipelineOptions(), lambda _: None, judge)
        await made.score_all()
        await made.compare()
        await shared.judgments.close()
        return made

    return asyncio.run(judged())


def ranked_of(pipeline: JudgingPipeline, written: Sequence[Candidate]) -> Ranked:
    return assemble(written, dict.fromkeys((p.id for p in written), None), pipeline, {})


def test_a_poem_is_held_against_other_themes_and_its_writer_against_the_base(
    tmp_path: Path,
) -> None:
    written = [poem("河", "河河河河\n河河河河"), poem("灯", "天地天地\n人心人心")]
    made = run(Scoring(), written, tmp_path / "cache.jsonl")
    found = [j.likelihood for j in read_judgments(tmp_path / "cache.jsonl")]
    on_theme, off_theme = (each for each in found if each is not None)
    assert on_theme.theme_adherence is not None
    assert on_theme.theme_adherence.value == round(16 / 9, 4)
    assert off_theme.theme_adherence == LikelihoodMeasure(value=0.0, error=0.0)
    assert on_theme.fluency.value > off_theme.fluency.value
    assert on_theme.voice == off_theme.voice == LikelihoodMeasure(value=0.5, error=0.0)
    assert made.computed[written[0].id].total > made.computed[written[1].id].total


def test_the_base_is_told_to_write_a_poem_and_the_adapter_what_it_was_told(tmp_path: Path) -> None:
    server = Scoring()
    run(server, [poem("河", "天地", variant="写{theme}"), poem("灯", "人心")], tmp_path / "c.jsonl")
    assert ("xuzhimo", (Message("user", "写河"),)) in server.frames
    assert ("base", (Message("system", POEM_SYSTEM), Message("user", "写河"))) in server.frames
    assert all(model == "base" or len(turns) == 1 for model, turns in server.frames)


def test_all_prompts_of_a_poem_under_one_model_go_in_one_request(tmp_path: Path) -> None:
    server = Scoring()
    written = poems(12)
    run(server, written, tmp_path / "cache.jsonl")
    assert sorted((model, len(texts)) for model, texts in server.asked) == [
        *[("base", 5)] * 12, *[("xuzhimo", 1)] * 12,
    ]  # fmt: skip
    for model, texts in server.asked:
        bodies = {text.split(">")[1] for text in texts}
        assert len(bodies) == 1
        assert len(set(texts)) == len(texts), model


def test_the_same_poems_and_seed_give_the_same_ranking_and_nothing_is_computed_twice(
    tmp_path: Path,
) -> None:
    written = poems(12)
    first, second = Scoring(), Scoring()
    made = ranked_of(run(first, written, tmp_path / "one.jsonl"), written)
    again = ranked_of(run(second, written, tmp_path / "two.jsonl"), written)
    assert made == again
    third = Scoring()
    cached = ranked_of(run(third, written, tmp_path / "one.jsonl"), written)
    assert cached.poems == made.poems
    assert third.asked == []


def test_other_weights_under_a_name_are_computed_anew(tmp_path: Path) -> None:
    written = poems(6)
    run(Scoring(), written, tmp_path / "cache.jsonl")
    other = Scoring()
    other.served["base"] = "another"
    run(other, written, tmp_path / "cache.jsonl")
    assert len(other.asked) == 12


def test_an_adapter_that_is_gone_or_changed_leaves_the_voice_out_and_says_so(
    tmp_path: Path,
) -> None:
    gone = [
        poem("河", "天地人心", "hushi"),
        poem("灯", "人心天地", "hushi"),
        poem("山", "天人", None),
    ]
    made = ranked_of(run(Scoring(), gone, tmp_path / "gone.jsonl"), gone)
    assert all(row.likelihood and row.likelihood.voice is None for row in made.poems)
    assert made.notes == (
        "The voice of 2 poems is unknown: the adapter that wrote them is not served, or has other "
        "weights now.",
    )
    changed = [poem("河", "天地人心", digest="old"), poem("灯", "人心天地", digest="x")]
    computed = run(Scoring(), changed, tmp_path / "changed.jsonl").computed
    assert [computed[each.id].voice is None for each in changed] == [True, False]


def test_a_poem_that_is_longer_than_the_context_fails_and_the_others_do_not(
    tmp_path: Path,
) -> None:
    written = [*poems(6), poem("河", "天" * 390)]
    made = ranked_of(run(Scoring(), written, tmp_path / "cache.jsonl"), written)
    assert made.judges[0].outcomes == {"failed": 1, "judged": 6}
    assert [row.rank for row in made.poems] == [1, 2, 3, 4, 5, 6, None]
    failed = [j for j in read_judgments(tmp_path / "cache.jsonl") if j.outcome == "failed"]
    assert failed[0].reply.startswith("Its length is 390; the model's context leaves room for ")


def test_a_limit_leaves_poems_out_and_the_next_run_goes_on(tmp_path: Path) -> None:
    written = poems(6)
    made = run(Scoring(), written, tmp_path / "cache.jsonl", max_calls=4)
    assert 0 < made.not_asked < 6
    assert run(Scoring(), written, tmp_path / "cache.jsonl").not_asked == 0


def test_a_server_without_log_probabilities_is_one_sentence(tmp_path: Path) -> None:
    class Foreign(Scoring):
        async def tokenize_text(self, text: str) -> Tokenized:
            raise ServerError("There is no OpenAI API here; add /v1?", status=404)

    with pytest.raises(ServerError, match="tells no log-probabilities of a prompt, which --judge"):
        run(Foreign(), poems(2), tmp_path / "cache.jsonl")


def test_ranks_have_intervals_that_hold_them(tmp_path: Path) -> None:
    written = poems(30)
    made = ranked_of(run(Scoring(), written, tmp_path / "cache.jsonl"), written)
    for row in made.poems:
        low, high = row.rank_low or 0, row.rank_high or 0
        assert 0 < low <= (row.rank or 0) <= high
    assert {row.rank for row in made.poems} == set(range(1, 31))
    assert any(row.rank_high != row.rank_low for row in made.poems)
    assert (
        0
        <= min(row.score or 0 for row in made.poems)
        <= max(row.score or 0 for row in made.poems)
        <= 5
    )


def test_the_report_holds_it_against_the_poet_like_any_judge(tmp_path: Path) -> None:
    written = poems(60)
    made = ranked_of(run(Scoring(), written, tmp_path / "cache.jsonl"), written)
    taken = [row.candidate.text.count(row.candidate.theme) > 3 for row in made.poems]
    entries = decisions([row.candidate for row in made.poems], taken)
    report = make_report(made, entries)
    names = [scorer.name for scorer in report.scorers]
    assert names[0] == "ranking"
    assert {"likelihood theme_adherence", "likelihood surprise", "longest", "random"} <= set(names)
    assert "rubric total" not in names
    assert report.verdict.startswith("This judge agrees with the poet: AUC ")
    lots = random.Random(3)
    by_lot = decisions(
        [row.candidate for row in made.poems], [lots.random() < 0.5 for _ in written]
    )
    assert make_report(made, by_lot).verdict.startswith("Ignore this judge: ")


def scores(value: float, error: float = 0.1) -> LikelihoodScores:
    measured = LikelihoodMeasure(value=value, error=error)
    return LikelihoodScores(theme_adherence=measured, fluency=measured, voice=None)


def test_measures_are_in_standard_deviations_and_totals_on_the_rubrics_scale() -> None:
    found = {str(n): scores(float(n)) for n in range(5)}
    rows = standardised(found, dict.fromkeys(found, LikelihoodMeasure(value=0.5, error=0.0)))
    z = [row.fluency[0] for row in rows.values() if row.fluency]
    assert sum(z) == pytest.approx(0, abs=1e-3)
    assert sum(value**2 for value in z) / 5 == pytest.approx(1, abs=1e-3)
    assert [row.total for row in rows.values()] == sorted(row.total for row in rows.values())
    assert rows["2"].total == pytest.approx(2.5)
    assert all(row.voice is None for row in rows.values())
    assert {row.surprise for row in rows.values()} == {(0.0, 0.0, 0.0)}


def test_a_rank_is_as_uncertain_as_its_measures() -> None:
    def width(error: float) -> int:
        found = {str(n): scores(float(n), error) for n in range(9)}
        rows = standardised(found, dict.fromkeys(found, LikelihoodMeasure(value=0.5, error=0.0)))
        return sum(high - low for low, high in rank_intervals(rows, 0).values())

    assert width(0.0) == 0 < width(0.5) < width(3.0)


def test_lines_that_everybody_writes_are_no_surprise() -> None:
    common = [poem(theme, f"我的心像一只小船\n{theme}在天边等我回家") for theme in THEMES]
    own = poem("锅", "锅底的锈是去年七月的雨")
    found = surprises([*common, own], 0)
    assert found[own.id].value > 0.6
    assert max(found[each.id].value for each in common) < 0.2


def test_one_poem_alone_has_scores_of_the_middle(tmp_path: Path) -> None:
    only = [poem("河", "天地\n人心")]
    made = ranked_of(run(Scoring(), only, tmp_path / "cache.jsonl"), only)
    assert (made.poems[0].rank, made.poems[0].score) == (1, 2.5)


def test_tokens_are_told_to_lines() -> None:
    assert lines_of_tokens("前言\n河水\n流过", [3, 4, 5, 6, 7]) == (0, 0, 1, 1, 1)
    assert lines_of_tokens("", []) == ()


def test_the_contrast_is_the_same_for_the_same_poems() -> None:
    written = poems(12)
    assert contrasts(written, 0) == contrasts(list(written), 0)
    assert contrasts(written, 0) != contrasts(written, 1)
    assert all(c.poem.theme not in c.themes and len(c.themes) == 4 for c in contrasts(written, 0))


def test_a_mean_over_tokens_has_the_error_of_its_lines() -> None:
    even = LineScores((-1.0,) * 8, (0, 0, 1, 1, 2, 2, 3, 3))
    uneven = LineScores((-1.0, -1.0, -5.0, -5.0) * 2, (0, 0, 1, 1, 2, 2, 3, 3))
    assert scores_of(even, [], None, 0).fluency == LikelihoodMeasure(value=-1.0, error=0.0)
    assert scores_of(uneven, [], None, 0).fluency.error > 0.5
    assert scores_of(even, [], None, 0).theme_adherence is None


def test_a_judgment_is_a_line_that_can_be_read_back(tmp_path: Path) -> None:
    run(Scoring(), poems(3), tmp_path / "cache.jsonl")
    judgments: list[Judgment] = read_judgments(tmp_path / "cache.jsonl")
    assert {(j.judge, j.prompt, j.outcome) for j in judgments} == {
        ("likelihood", "likelihood-1", "judged")
    }
