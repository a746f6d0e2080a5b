"""The questions of a run, stage by stage, and what the answers amount to. Knows no files.

What is asked in a round follows only from what earlier rounds answered, in the plan's order and
never in the order of arrival. So a run that was killed asks the same questions again, and finds the
answers it had. At the end there is one row a poem, in the order of their ranks.
"""

import asyncio
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

import msgspec

from verse.records import Candidate, Judgment, Poem
from verse.terminal import counted
from verse_clients.judge.client import Judge
from verse_clients.judge.costs import FREE, BudgetSpentError, Price
from verse_clients.judge.likelihood import rank_intervals, standardised, surprises
from verse_clients.judge.log_probabilities import BASE, Contrast, LikelihoodJudge, contrasts
from verse_clients.judge.prompts import (
    MAX_BATCH,
    Kind,
    Language,
    Question,
    make_question,
    read_prompt,
)
from verse_clients.judge.ranked import (
    Comparison,
    JudgeSummary,
    Ranked,
    RankedPoem,
    StandardScores,
    Use,
    Weights,
    exclusion,
    mean_scores,
)
from verse_clients.judge.ranking import (
    DRAWS,
    Batch,
    Fit,
    RankedPosition,
    Rubric,
    contested_poems,
    first_round,
    fit_contested,
    next_round,
    num_comparisons,
    num_groups,
    positions,
    with_intervals,
)
from verse_clients.screening import Finding

_PLANNING_DRAWS = 40
_ENOUGH_POEMS, _ALIKE = 10, 0.8
"""From so many poems on, and such a share of them with the same scores, a judge tells nothing."""

MAX_SIZE = MAX_BATCH


class PipelineOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How poems are judged."""

    language: Language = "zh"
    weights: Weights = Weights()
    rounds: int = 5
    """How often each contested poem is compared, about."""
    size: int = 5
    """Poems in a comparison; 2 for pairs, asked in both orders."""
    keep: float = 0.4
    """Share of the poems that the poet may want; comparisons gather around this line."""
    margin: float = 1.0
    """How far from the line a poem counts as contested, in points of the rubric."""
    seed: int = 0


class JudgingPipeline:
    """Judges, poems, and what was said so far."""

    def __init__(
        self,
        judges: Sequence[Judge],
        poems: Sequence[Candidate],
        examples: Sequence[Poem],
        options: PipelineOptions,
        expect: Callable[[int], object],
        likelihood: LikelihoodJudge | None = None,
    ) -> None:
        """Nothing is asked yet.

        Args:
            judges: Who is asked; each the same.
            likelihood: Who computes how likely the poems are; None if nobody does.
            poems: What no filter left out.
            examples: Poems that show the poet's taste.
            options: How.
            expect: Told how many new answers a stage will bring.
        """
        self._judges = judges
        self._poems = {poem.id: poem for poem in poems}
        self._examples = examples
        self._options = options
        self._expect = expect
        self._likelihood = likelihood
        self.computed: dict[str, StandardScores] = {}
        """What log-probabilities say of the poems, by id."""
        self._judgments: dict[str, list[Judgment]] = {name: [] for name in self._names()}
        self.rubric = Rubric(options.weights)
        self.comparisons: list[Comparison] = []
        self.contested: list[str] = []
        self.not_asked = 0
        """Questions that a limit did not allow."""

    def rubric_questions(self) -> list[Question]:
        """One about each poem; all at once take a kilobyte each, and more with examples."""
        return [self._question("rubric", [id_]) for id_ in self._poems]

    def ranking_question(self, batch: Sequence[str]) -> Question:
        """One about a batch, in its order."""
        return self._question("ranking", batch)

    def _question(self, kind: Kind, ids: Sequence[str]) -> Question:
        prompt = read_prompt(kind, self._options.language)
        return make_question(prompt, [self._poems[id_] for id_ in ids], self._examples)

    def usual_questions(self) -> list[Question]:
        """One of each kind that will be asked, of usual length; none if there are no poems."""
        by_length = sorted(self._poems, key=lambda id_: len(self._poems[id_].text))
        middle = len(by_length) // 2
        found = [self._question("rubric", [id_]) for id_ in by_length[middle : middle + 1]]
        if self._options.rounds and len(by_length) > 1:
            start = max(0, middle - self._options.size // 2)
            found.append(self.ranking_question(by_length[start : start + self._options.size]))
        return found

    def contrasts(self) -> list[Contrast]:
        """What log-probabilities are computed of."""
        return contrasts(list(self._poems.values()), self._options.seed)

    async def score_all(self) -> None:
        """Ask every judge about every poem.

        Raises:
            ServerError: asking on makes no sense.
            OutputError: the disk refuses.
        """
        await self._compute_all()
        asked = [(judge, (id_,)) for judge in self._judges for id_ in self._poems]
        for judge, judgment in await self._ask_all("rubric", asked):
            if judgment.scores is not None:
                self.rubric.add(judge.name, judgment.candidates[0], judgment.scores)

    async def _compute_all(self) -> None:
        """Have log-probabilities computed, if any judge does that."""
        judge = self._likelihood
        if judge is None or not self._poems:
            return
        poems = list(self._poems.values())
        asked = self.contrasts()
        self._expect(sum(judge.known(contrast) is None for contrast in asked))
        answers = await _all([(judge, partial(judge.judge, contrast)) for contrast in asked])
        found = [answer for answer in answers if answer is not None]
        self.not_asked += len(asked) - len(found)
        self._judgments[judge.name] += found
        scores = {each.candidates[0]: each.likelihood for each in found if each.likelihood}
        self.computed = standardised(scores, surprises(poems, self._options.seed))
        for id_, computed in self.computed.items():
            self.rubric.add_total(id_, computed.total)

    def computed_intervals(self) -> dict[str, tuple[int, int]]:
        """Where ranks lie by log-probabilities alone; none if a judge was asked as well."""
        return {} if self._judges else rank_intervals(self.computed, self._options.seed)

    def voiceless(self) -> int:
        """Poems of an adapter for which no gain over the base could be computed."""
        by_adapter = [id_ for id_ in self.computed if self._poems[id_].adapter is not None]
        return sum(self.computed[id_].voice is None for id_ in by_adapter)

    async def compare(self) -> None:
        """Let every judge order what is contested, round by round.

        Raises:
            ServerError: asking on makes no sense.
            OutputError: the disk refuses.
        """
        how = self._options
        if not self._judges:
            return
        self.contested = contested_poems(self.rubric.totals(), how.keep, how.margin)
        shown: dict[str, list[Batch]] = defaultdict(list)
        for number in range(how.rounds):
            plan = self._plan(number, shown)
            if not plan or self.not_asked:
                break
            await self._collect_orders(plan, shown)

    def fitted(self, num_draws: int = DRAWS) -> Fit | None:
        """Strengths of the contested poems; None before a comparison."""
        orders = [each.ranking for each in self.comparisons]
        return fit_contested(self.contested, orders, self.rubric.totals(), num_draws=num_draws)

    def troubles(self) -> Counter[str]:
        """How many answers could not be used, by outcome."""
        given = [each for list_ in self._judgments.values() for each in list_]
        return Counter(each.outcome for each in given if each.outcome != "judged")

    def last_trouble(self) -> str:
        """What came instead of an answer, the last time."""
        bad = [j for list_ in self._judgments.values() for j in list_ if j.outcome != "judged"]
        return bad[-1].reply if bad else ""

    def changed_models(self) -> dict[str, int]:
        """Judges whose answers name several system fingerprints, and how many."""
        found = {
            name: len({each.fingerprint for each in given if each.fingerprint})
            for name, given in self._judgments.items()
        }
        return {name: count for name, count in found.items() if count > 1}

    def summaries(self) -> tuple[JudgeSummary, ...]:
        """Each judge, and what became of its questions."""
        computed = self._likelihood
        rows = [
            *([(computed.name, BASE, computed.servers.address, FREE)] if computed else []),
            *((j.name, j.model, j.servers.address, j.price) for j in self._judges),
        ]
        return tuple(_summary(*row, self._judgments[row[0]]) for row in rows)

    def _names(self) -> list[str]:
        computed = [self._likelihood.name] if self._likelihood else []
        return [*computed, *(judge.name for judge in self._judges)]

    def prompts(self) -> tuple[str, ...]:
        """Names of the instructions that were used."""
        used = [each.prompt for list_ in self._judgments.values() for each in list_]
        return tuple(dict.fromkeys(used))

    def _plan(self, number: int, shown: dict[str, list[Batch]]) -> list[tuple[Judge, Batch]]:
        fitted = self.fitted(_PLANNING_DRAWS)
        intervals = dict(zip(fitted.ids, fitted.intervals(), strict=True)) if fitted else {}
        plan: list[tuple[Judge, Batch]] = []
        for judge in self._judges:
            rng = random.Random(f"{self._options.seed} {number} {judge.name}")
            if fitted is None:
                batches = first_round(self.contested, self._options.size, rng)
            else:
                batches = next_round(intervals, shown[judge.name], self._options.size, rng)
            plan.extend((judge, batch) for batch in batches)
        return plan

    async def _collect_orders(
        self,
        plan: Sequence[tuple[Judge, Batch]],
        shown: dict[str, list[Batch]],
    ) -> None:
        for judge, batch in plan:
            shown[judge.name].append(batch)
        for judge, judgment in await self._ask_all("ranking", plan):
            if judgment.ranking is not None:
                self.comparisons.append(
                    Comparison(
                        judge=judge.name, shown=judgment.candidates, ranking=judgment.ranking
                    )
                )

    async def _ask_all(
        self, kind: Kind, asked: Sequence[tuple[Judge, Batch]]
    ) -> list[tuple[Judge, Judgment]]:
        """All answers, in the order of the questions; without those a limit did not allow."""
        known = (judge.known(self._question(kind, batch)) for judge, batch in asked)
        self._expect(sum(answer is None for answer in known))
        given = await _all(
            [(judge, partial(self._ask, judge, kind, batch)) for judge, batch in asked]
        )
        answers = zip((judge for judge, _ in asked), given, strict=True)
        answered = [(judge, judgment) for judge, judgment in answers if judgment is not None]
        self.not_asked += len(asked) - len(answered)
        for judge, judgment in answered:
            self._judgments[judge.name].append(judgment)
        return answered

    async def _ask(self, judge: Judge, kind: Kind, batch: Batch) -> Judgment | None:
        try:
            return await judge.ask(self._question(kind, batch))
        except BudgetSpentError:
            return None


class _Asked(Protocol):
    """Who answers, or computes."""

    concurrency: int


_Job = Callable[[], Coroutine[Any, Any, Judgment | None]]


async def _all(asked: Sequence[tuple[_Asked, _Job]]) -> list[Judgment | None]:
    """All answers, in their order; the first error ends the others.

    Each judge has as many tasks as it answers at a time, and not one for each of all questions.
    """
    answers: list[Judgment | None] = [None] * len(asked)
    queues: dict[int, list[tuple[int, _Job]]] = defaultdict(list)
    for place, (judge, job) in enumerate(asked):
        queues[id(judge)].append((place, job))
    at_once = {id(judge): judge.concurrency for judge, _ in asked}

    async def work(queue: Iterator[tuple[int, _Job]]) -> None:
        for place, job in queue:
            answers[place] = await job()

    try:
        async with asyncio.TaskGroup() as group:
            for judge, jobs in queues.items():
                queue = iter(jobs)
                for _ in range(min(at_once[judge], len(jobs))):
                    group.create_task(work(queue))
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return answers


def _summary(
    name: str, model: str, base_url: str, price: Price | None, judgments: Sequence[Judgment]
) -> JudgeSummary:
    prompt_tokens = sum(each.prompt_tokens for each in judgments)
    completion_tokens = sum(each.completion_tokens for each in judgments)
    return JudgeSummary(
        name=name,
        model=model,
        server=base_url,
        format=next((each.format for each in judgments if each.format), None),
        outcomes=dict(sorted(Counter(each.outcome for each in judgments).items())),
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        cost=None if price is None else price.of(prompt_tokens, completion_tokens),
    )


def assemble(
    poems: Sequence[Candidate],
    filtered: Mapping[str, Finding | None],
    pipeline: JudgingPipeline,
    uses: Mapping[str, Use],
) -> Ranked:
    """Make the ranking of what was said.

    Args:
        poems: All of them, in the order of the files.
        filtered: Why each was left out; None if it was not.
        pipeline: What was said about the others.
        uses: What poems were used for beside being judged.
    """
    ranked_positions = with_intervals(
        positions(pipeline.rubric.totals(), pipeline.fitted()), pipeline.computed_intervals()
    )
    orders = [each.ranking for each in pipeline.comparisons]
    compared = num_comparisons(orders)
    rows = [
        RankedPoem(candidate=poem, filtered=exclusion(filtered[poem.id]), seen=uses.get(poem.id))
        if poem.id not in ranked_positions
        else _row(poem, pipeline, ranked_positions[poem.id], compared[poem.id], uses.get(poem.id))
        for poem in poems
    ]
    reasons = Counter(found.reason for found in filtered.values() if found)
    return Ranked(
        prompts=pipeline.prompts(),
        weights=pipeline.rubric.weights,
        judges=pipeline.summaries(),
        filtered=dict(sorted(reasons.items())),
        notes=tuple(_notes(pipeline, orders)),
        comparisons=tuple(pipeline.comparisons),
        poems=tuple(sorted(rows, key=_by_rank)),
    )


def _row(
    poem: Candidate,
    pipeline: JudgingPipeline,
    position: RankedPosition,
    compared: int,
    use: Use | None,
) -> RankedPoem:
    rubric = pipeline.rubric
    by_judge = rubric.by_judge(poem.id)
    low, high = position.interval or (None, None)
    return RankedPoem(
        candidate=poem,
        score=round(position.score, 4),
        rank=position.rank,
        rank_low=low,
        rank_high=high,
        disagreement=rubric.disagreement(poem.id),
        total=rubric.total(poem.id),
        rubric=mean_scores(by_judge.values()) if by_judge else None,
        by_judge=by_judge,
        likelihood=pipeline.computed.get(poem.id),
        strength=position.strength,
        num_comparisons=compared,
        seen=use,
    )


def _notes(pipeline: JudgingPipeline, orders: Sequence[Sequence[str]]) -> list[str]:
    notes: list[str] = []
    if pipeline.not_asked:
        notes.append(
            f"The limit was reached with {counted(pipeline.not_asked, 'question')} left; "
            "run again with a higher limit to continue."
        )
    if troubles := pipeline.troubles():
        found = ", ".join(f"{count} {name}" for name, count in sorted(troubles.items()))
        notes.append(f"Unusable answers: {found}.")
    if voiceless := pipeline.voiceless():
        notes.append(
            f"The voice of {counted(voiceless, 'poem')} is unknown: the adapter that wrote "
            f"{'it' if voiceless == 1 else 'them'} is not served, or has other weights now."
        )
    notes += [
        f"{name} gave {same} of {counted(number, 'poem')} the same scores, which tell nothing."
        for name, (same, number) in pipeline.rubric.commonest().items()
        if number >= _ENOUGH_POEMS and same > _ALIKE * number
    ]
    notes += [
        f"The answers of {name} come from {count} versions of its model, by system_fingerprint."
        for name, count in pipeline.changed_models().items()
    ]
    if orders and (groups := num_groups(pipeline.contested, orders)) > 1:
        notes.append(
            f"The comparisons fall into {groups} groups that were never compared with each "
            "other; ranks across groups depend on the rubric alone."
        )
    return notes


def _by_rank(poem: RankedPoem) -> tuple[bool, bool, int]:
    """Ranked poems first, then those without an answer, then those left out."""
    return (poem.filtered is not None, poem.rank is None, poem.rank or 0)
