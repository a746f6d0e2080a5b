"""The vectorised sampler against a slow and obvious one, row by row in numpy."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import mlx.core as mx
import msgspec
import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from tests.server.engine.engine_requests import sequence
from verse.base_model import load_base_model
from verse.cpu_weights.threads import Threads
from verse_server.engine.adapters.lora import LoraBank
from verse_server.engine.batch import Batch
from verse_server.engine.kv_cache import PrefixCache
from verse_server.engine.sampling import sampler
from verse_server.engine.sampling.sampler import Sampler
from verse_server.engine.sequence import Sequence as EngineSequence
from verse_server.engine.types import SamplingParams

VOCAB = 12


WHERE = ["on the host", "on the host at once", "on the device"]
at_once = False


@pytest.fixture(scope="module", params=WHERE, autouse=True)
def where(request: pytest.FixtureRequest) -> Iterator[None]:
    """Every test as on a CPU, as on one whose host made the logits, and as on a GPU."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sampler, "runs_on_cpu", lambda: request.param != "on the device")
        patch.setitem(globals(), "at_once", request.param.endswith("at once"))
        yield


Numbers = np.ndarray[Any, np.dtype[np.float64]]


def random_logits(seed: int, *shape: int, spread: float = 1.0) -> Numbers:
    # Multiples of 1/64 are exact in every float type that a model computes in, up to 4.
    normal = np.random.default_rng(seed).standard_normal(shape) * spread
    return np.round(np.clip(normal, -4, 4) * 64) / 64


def sample(logits: mx.array, inputs: mx.array, rows: list[EngineSequence]) -> mx.array:
    """At once, wherever it is drawn."""
    of_one_step = Sampler(threads=Threads(2) if at_once else None)
    tokens = of_one_step.sample(logits, inputs, rows)
    of_one_step.settle()
    return tokens


def draw(logits: Numbers, inputs: Sequence[int], rows: list[EngineSequence]) -> list[int]:
    tokens = sample(mx.array(logits.astype(np.float32)), mx.array(list(inputs)), rows)
    assert tokens.shape == (len(rows),)
    return cast(list[int], tokens.tolist())


def row_after(
    prompt: Sequence[int], answer: Sequence[int], sampling: SamplingParams
) -> EngineSequence:
    """As it is when `answer` has been drawn: the last token of all is still in flight."""
    row = sequence(prompt, (), sampling)
    row.tokens.extend([*prompt, *answer][:-1])
    return row


def simple_row(sampling: SamplingParams) -> EngineSequence:
    return row_after([0], [], sampling)


# The reference.


def penalized(
    logits: Numbers, prompt: Sequence[int], answer: Sequence[int], params: SamplingParams
) -> Numbers:
    logits = logits.copy()
    for token in {*prompt, *answer}:
        if logits[token] > 0:
            logits[token] /= params.repetition_penalty
        else:
            logits[token] *= params.repetition_penalty
    for token, count in Counter(answer).items():
        logits[token] -= params.frequency_penalty * count + params.presence_penalty
    return logits


def softmax(logits: Numbers) -> Numbers:
    exponentials = np.exp(logits - logits.max())
    return exponentials / exponentials.sum()


def distribution(logits: Numbers, params: SamplingParams) -> tuple[Numbers, bool]:
    """What is drawn from, and whether all tokens are so far inside or outside that rounding cannot
    move them to the other side."""
    probabilities, margins = softmax(logits / params.temperature), [1.0]
    if 0 < params.top_k < len(logits):
        least = np.sort(probabilities)[-params.top_k]
        probabilities = np.where(probabilities >= least, probabilities, 0)
        probabilities /= probabilities.sum()
    likeliest = probabilities.max()
    kept = np.zeros_like(probabilities)
    for token, probability in enumerate(probabilities):
        before = probabilities[probabilities > probability].sum()
        in_top_p = before < params.top_p or params.top_p == 1 or probability == likeliest
        if in_top_p and probability >= params.min_p * likeliest:
            kept[token] = probability
        margins += [abs(before - params.top_p), 10 * abs(probability - params.min_p * likeliest)]
    return kept / kept.sum(), min(m for m in margins if m > 0) > 1e-4


def chi_square_limit(counts: Numbers, probabilities: Numbers) -> tuple[float, float]:
    """The statistic and a limit six standard deviations above its mean."""
    possible = probabilities > 0
    expected = probabilities[possible] * counts.sum()
    statistic = float(((counts[possible] - expected) ** 2 / expected).sum())
    degrees = int(possible.sum()) - 1
    return statistic, degrees + 6 * (2 * degrees) ** 0.5


def counts_of(
    logits: Numbers, params: SamplingParams, num_rows: int, num_steps: int = 1
) -> Numbers:
    """How often each token is drawn by rows with seeds 0, 1, 2 ..."""
    rows = [simple_row(msgspec.structs.replace(params, seed=seed)) for seed in range(num_rows)]
    tokens: list[int] = []
    for _ in range(num_steps):
        tokens += draw(np.tile(logits, (num_rows, 1)), [0] * num_rows, rows)
    return np.bincount(tokens, minlength=len(logits)).astype(np.float64)


tokens = st.integers(0, VOCAB - 1)
penalties = st.builds(
    SamplingParams,
    temperature=st.just(0.0),
    repetition_penalty=st.sampled_from([1.0, 1.0, 1.3, 2.0, 0.5]),
    frequency_penalty=st.sampled_from([0.0, 0.0, 0.4, 2.0, -1.0]),
    presence_penalty=st.sampled_from([0.0, 0.0, 0.7, 2.0, -2.0]),
)
histories = st.tuples(
    st.lists(tokens, min_size=1, max_size=6), st.lists(tokens, max_size=8), penalties
)


@settings(deadline=None, max_examples=100)
@given(st.integers(0, 10_000), st.lists(histories, min_size=1, max_size=5))
def test_penalties_change_the_likeliest_token_as_the_reference_says(
    seed: int, batch: list[tuple[list[int], list[int], SamplingParams]]
) -> None:
    """Rows before their first token, rows in the middle, with and without penalties, together."""
    logits = random_logits(seed, len(batch), VOCAB)
    rows = [row_after(prompt, answer, params) for prompt, answer, params in batch]
    inputs = [[*prompt, *answer][-1] for prompt, answer, _ in batch]
    for row_logits, (prompt, answer, params), drawn in zip(
        logits, batch, draw(logits, inputs, rows), strict=True
    ):
        expected = penalized(row_logits, prompt, answer, params)
        assert expected[drawn] >= expected.max() - 1e-5


def test_a_penalty_counts_the_token_in_flight() -> None:
    """The rows' lists do not hold it yet."""
    logits = np.array([[1.0, 0.9, 0.0]])
    for name in ("repetition_penalty", "frequency_penalty", "presence_penalty"):
        params = SamplingParams(**cast(Any, {"temperature": 0, name: 1.5}))
        assert draw(logits, [0], [row_after([2], [0], params)]) == [1], name
        assert draw(logits, [1], [row_after([2], [1], params)]) == [0], name


def test_only_the_repetition_penalty_counts_the_prompt_at_the_first_step() -> None:
    logits = np.array([[1.0, 0.9, 0.0]])
    for name, drawn in {
        "repetition_penalty": 1,
        "frequency_penalty": 0,
        "presence_penalty": 0,
    }.items():
        params = SamplingParams(**cast(Any, {"temperature": 0, name: 1.5}))
        assert draw(logits, [0], [row_after([2, 0], [], params)]) == [drawn], name
        assert draw(logits, [2], [row_after([0, 2], [], params)]) == [drawn], name


def test_frequency_counts_every_occurrence_and_presence_one() -> None:
    logits = np.array([[1.0, 0.0, -9.0]])
    often = row_after([2], [0, 0, 0], SamplingParams(temperature=0, frequency_penalty=0.4))
    assert draw(logits, [0], [often]) == [1]
    once = row_after([2], [0, 0, 0], SamplingParams(temperature=0, presence_penalty=0.4))
    assert draw(logits, [0], [once]) == [0]


def test_the_repetition_penalty_pushes_both_signs_down_and_counts_no_occurrences() -> None:
    params = SamplingParams(temperature=0, repetition_penalty=2.0)
    assert draw(np.array([[3.0, 1.4]]), [0], [row_after([0], [0, 0, 0], params)]) == [0]
    assert draw(np.array([[2.0, 1.4]]), [0], [row_after([0], [0], params)]) == [1]
    assert draw(np.array([[-1.0, -1.4]]), [0], [row_after([0], [0], params)]) == [1]


cutoffs = st.builds(
    SamplingParams,
    temperature=st.sampled_from([0.3, 0.8, 1.0, 1.7]),
    top_k=st.sampled_from([0, 0, 1, 2, 5, VOCAB, 1000]),
    top_p=st.sampled_from([1.0, 1.0, 0.0, 0.3, 0.61, 0.9, 0.97]),
    min_p=st.sampled_from([0.0, 0.0, 0.05, 0.21, 0.6, 1.0]),
)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10_000), cutoffs)
@example(779, SamplingParams(temperature=1.0, top_k=5, top_p=0.61))  # two are fifth
def test_exactly_the_tokens_inside_the_cutoffs_are_drawn(seed: int, params: SamplingParams) -> None:
    logits = random_logits(seed, VOCAB)
    expected, is_clear = distribution(logits, params)
    assume(is_clear)
    counts = counts_of(logits, params, 800)
    assert not counts[expected == 0].any()
    assert counts[expected > 0.03].all()
    statistic, limit = chi_square_limit(counts[expected > 0.01], expected[expected > 0.01])
    if (expected <= 0.01).any():  # the rare ones make the others a little too frequent
        limit += 800 * 0.01
    assert statistic <= limit


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(),
        SamplingParams(temperature=0.6),
        SamplingParams(temperature=1.5),
        SamplingParams(top_k=4),
        SamplingParams(top_p=0.8),
        SamplingParams(min_p=0.15),
        SamplingParams(temperature=1.3, top_k=6, top_p=0.9, min_p=0.02),
    ],
    ids=["plain", "cool", "hot", "top_k", "top_p", "min_p", "all"],
)
def test_frequencies_are_those_of_the_distribution(params: SamplingParams) -> None:
    logits = np.log(np.array([0.30, 0.22, 0.17, 0.12, 0.09, 0.06, 0.03, 0.01]))
    expected, is_clear = distribution(logits, params)
    assert is_clear
    counts = counts_of(logits, params, 1000, num_steps=12)
    assert not counts[expected == 0].any()
    statistic, limit = chi_square_limit(counts, expected)
    assert statistic < limit


def test_draws_of_neighbouring_seeds_and_of_one_row_s_steps_are_independent() -> None:
    """Pairs of draws fall on all pairs of tokens equally often."""
    flat, num_rows, num_steps = np.zeros(4), 1001, 8
    rows = [simple_row(SamplingParams(seed=seed)) for seed in range(num_rows)]
    steps = np.array(
        [draw(np.tile(flat, (num_rows, 1)), [0] * num_rows, rows) for _ in range(num_steps)]
    )
    for pairs in (
        steps[:, :-1].ravel() * 4 + steps[:, 1:].ravel(),
        steps[:-1].ravel() * 4 + steps[1:].ravel(),
    ):
        counts = np.bincount(pairs, minlength=16).astype(np.float64)
        statistic, limit = chi_square_limit(counts, np.full(16, 1 / 16))
        assert statistic < limit


def test_tokens_that_tie_with_the_last_one_kept_are_kept_too() -> None:
    logits = np.array([1.0, 0.0, 0.0, -3.0])
    assert set(np.flatnonzero(counts_of(logits, SamplingParams(top_k=2), 200))) == {0, 1, 2}


def test_one_token_always_stays() -> None:
    logits = random_logits(3, VOCAB)
    for params in (SamplingParams(top_p=0.0), SamplingParams(min_p=1.0), SamplingParams(top_k=1)):
        assert np.flatnonzero(counts_of(logits, params, 50)) == logits.argmax()


@pytest.mark.parametrize("temperature", [0.0, 1e-6, 1e-40, 5e-324])
def test_no_temperature_and_next_to_none_take_the_likeliest_token(temperature: float) -> None:
    logits = random_logits(5, 3, VOCAB) + 5
    rows = [simple_row(SamplingParams(temperature=temperature, top_p=0.5)) for _ in range(3)]
    assert draw(logits, [0] * 3, rows) == logits.argmax(axis=1).tolist()
    rows[1] = simple_row(SamplingParams())
    mixed = draw(logits, [0] * 3, rows)
    assert [mixed[0], mixed[2]] == logits[[0, 2]].argmax(axis=1).tolist()


def test_a_very_low_temperature_is_no_error_beside_a_very_high_one() -> None:
    logits = random_logits(6, 2, VOCAB) * 100
    rows = [simple_row(SamplingParams(temperature=t, seed=1)) for t in (2e-5, 1e30)]
    assert draw(logits, [0, 0], rows)[0] == logits[0].argmax()


NEIGHBOURS = (
    SamplingParams(temperature=0),
    SamplingParams(temperature=0, repetition_penalty=1.4),
    SamplingParams(seed=7),
    SamplingParams(seed=7, temperature=0.5, top_k=3),
    SamplingParams(seed=8, top_p=0.7, frequency_penalty=0.5),
    SamplingParams(seed=9, min_p=0.1, presence_penalty=1.0, repetition_penalty=1.2),
)


def written_by(params: Sequence[SamplingParams], which: Sequence[int], steps: int = 15) -> Any:
    """What the rows `which` write, each on logits of its own, in one batch."""
    logits = random_logits(99, len(params), steps, VOCAB)
    rows = [row_after([index, 11], [], params[index]) for index in which]
    answers: list[list[int]] = [[] for _ in which]
    inputs = [11] * len(which)
    for step in range(steps):
        drawn = draw(logits[list(which), step], inputs, rows)
        for row, answer, token, before in zip(rows, answers, drawn, inputs, strict=True):
            row.tokens.append(before)
            answer.append(token)
        inputs = drawn
    return dict(zip(which, answers, strict=True))


def test_what_a_row_draws_does_not_depend_on_its_neighbours() -> None:
    everybody = range(len(NEIGHBOURS))
    alone = {index: written_by(NEIGHBOURS, [index])[index] for index in everybody}
    assert written_by(NEIGHBOURS, everybody) == alone
    assert written_by(NEIGHBOURS, everybody[::-1]) == alone
    for index in everybody:
        others = [other for other in everybody if other != index]
        assert written_by(NEIGHBOURS, others) == {other: alone[other] for other in others}


def test_greedy_rows_of_a_mixed_batch_take_the_likeliest_token() -> None:
    logits = random_logits(1, 6, VOCAB)
    params = [SamplingParams(temperature=0), SamplingParams(top_k=2)] * 3
    for _ in range(10):
        drawn = draw(logits, [0] * 6, [simple_row(p) for p in params])
        assert drawn[::2] == logits[::2].argmax(axis=1).tolist()


def test_a_seed_repeats_and_another_one_differs() -> None:
    params = [SamplingParams(seed=seed) for seed in (1, 1, 2, 2**63 - 1, -(2**63), 0)]
    flat = np.zeros((len(params), 1000))
    rows = [simple_row(p) for p in params]
    answers = list(zip(*(draw(flat, [0] * len(rows), rows) for _ in range(8)), strict=True))
    assert answers[0] == answers[1]
    assert len(set(answers)) == len(params) - 1


def test_rows_without_a_seed_differ() -> None:
    rows = [simple_row(SamplingParams()) for _ in range(8)]
    assert len(set(draw(np.zeros((8, 1_000_000)), [0] * 8, rows))) == 8


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16])
def test_half_precision_logits_draw_what_their_float32_values_draw(dtype: mx.Dtype) -> None:
    logits = mx.array(random_logits(4, len(NEIGHBOURS), VOCAB).astype(np.float32)).astype(dtype)
    inputs = mx.array([0] * len(NEIGHBOURS))
    drawn = [
        sample(values, inputs, [row_after([1], [0], p) for p in NEIGHBOURS]).tolist()
        for values in (logits, logits.astype(mx.float32))
    ]
    assert drawn[0] == drawn[1]


def test_in_the_batch_every_row_s_list_and_the_token_in_flight_are_all_it_has_written(
    tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the penalties rest on, with rows of different lengths that join and leave."""
    seen: list[tuple[EngineSequence, list[int]]] = []

    sample_late = Sampler.sample

    def spy(
        self: Sampler, logits: mx.array, inputs: mx.array, rows: list[EngineSequence]
    ) -> mx.array:
        self.settle()
        # Copied at once, since mlx-lm goes on writing to the lists.
        in_flight = cast(list[int], inputs.tolist())
        seen.extend((r, [*r.tokens, t]) for r, t in zip(rows, in_flight, strict=True))
        return sample_late(self, logits, inputs, rows)

    monkeypatch.setattr(Sampler, "sample", spy)
    base = load_base_model(str(tiny_base))
    batch = Batch(base, LoraBank(base.model, base.dtype), 8, PrefixCache(0))
    params = SamplingParams(repetition_penalty=1.2, seed=3)
    rows = [sequence(prompt, (), params) for prompt in ([5], [6, 7, 8], list(range(40, 60)))]
    answers: dict[EngineSequence, list[int]] = {}
    for step in range(40):
        if step in (0, 1, 4):
            row = rows[len(answers)]
            batch.add([row], 6)
            answers[row] = []
        for drawn in batch.step():
            answers[drawn.sequence].append(drawn.token)
    for row, answer in answers.items():
        assert len(answer) == 6
        histories = [history for other, history in seen if other is row]
        for length, history in enumerate(histories[: len(answer)]):
            assert history == [*row.prompt, *answer[:length]]


def test_a_bias_is_added_to_the_tokens_it_names_and_to_no_others_rows() -> None:
    logits = mx.array([[0.0, 1.0, 2.0, 3.0]] * 3)
    biases: list[dict[int, float]] = [{0: 100.0}, {}, {3: -100.0, 2: -1.5}]
    rows = [sequence([1], (), SamplingParams(temperature=0, logit_bias=bias)) for bias in biases]
    assert sample(logits, mx.array([1, 1, 1]), rows).tolist() == [0, 3, 1]


def test_noted_logprobs_are_those_of_the_model_whatever_shapes_the_draw() -> None:
    rng = np.random.default_rng(5)
    raw = rng.normal(size=(3, 50)).astype(np.float32) * 3
    params = SamplingParams(temperature=0.3, top_k=2, logit_bias={7: 5.0}, seed=1)
    rows = [
        sequence([1], (), params, num_top_logprobs=4),
        sequence([1], (), params),
        sequence([1], (), params, num_top_logprobs=0),
    ]
    tokens = cast(list[int], sample(mx.array(raw), mx.array([1, 1, 1]), rows).tolist())
    expected = raw - np.log(np.exp(raw).sum(axis=1, keepdims=True))
    assert not rows[1].noted
    assert rows[0].noted[0].step is rows[2].noted[0].step  # read to the host once
    for i in (0, 2):
        noted = rows[i].noted.popleft()
        drawn = noted.step.on_host[0][noted.position]
        assert drawn == pytest.approx(expected[i, tokens[i]], abs=1e-4)
    top = noted_top(rows[0], mx.array(raw), params)
    assert top == np.argsort(-expected[0])[:4].tolist()


def noted_top(like: EngineSequence, logits: mx.array, params: SamplingParams) -> list[int]:
    row = sequence(like.prompt, (), params, num_top_logprobs=4)
    sample(logits[:1], mx.array([1]), [row])
    noted = row.noted.popleft()
    return noted.step.on_host[1][noted.position]


class OnlyThese:
    """Stands for a grammar's matcher: these tokens may come next, whatever came before."""

    def __init__(self, *tokens: int) -> None:
        self.tokens = tokens
        self.taken: list[int] = []

    def take(self, token: int) -> None:
        self.taken.append(token)

    def allowed(self) -> Any:
        return np.isin(np.arange(VOCAB), self.tokens)


@pytest.mark.parametrize("params", [*NEIGHBOURS, SamplingParams(seed=1, logit_bias={0: 100.0})])
@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16])
def test_a_grammar_allows_its_tokens_and_leaves_other_rows_alone(
    params: SamplingParams, dtype: mx.Dtype
) -> None:
    logits = mx.array(random_logits(12, 3, VOCAB).astype(np.float32)).astype(dtype)
    before = mx.array(logits)

    def drawn(matcher: Any) -> list[int]:
        rows = [row_after([1, 2], [3], params) for _ in range(3)]
        rows[1] = sequence([1, 2], (), params, matcher=matcher)
        rows[1].tokens.extend([1, 2])
        return cast(list[int], sample(logits, mx.array([3, 3, 3]), rows).tolist())

    matcher = OnlyThese(4, 7)
    free, held = drawn(None), drawn(matcher)
    assert held[1] in (4, 7)
    assert (held[0], held[2]) == (free[0], free[2])
    assert drawn(OnlyThese(9))[1] == 9
    assert matcher.taken == ([held[1]] if at_once else [3])
    assert mx.array_equal(logits, before)


def test_a_grammar_is_not_moved_by_the_last_token_of_the_prompt() -> None:
    matcher = OnlyThese(4)
    row = sequence([1, 2], (), SamplingParams(), matcher=cast(Any, matcher))
    row.tokens.append(1)
    assert draw(random_logits(0, 1, VOCAB), [2], [row]) == [4]
    assert matcher.taken == ([4] if at_once else [])


def test_on_the_host_tokens_are_there_once_settled_even_through_arrays_made_of_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """mlx-lm takes and joins the tokens of a step before they are drawn."""
    monkeypatch.setattr(sampler, "runs_on_cpu", lambda: True)
    flat, rows = np.zeros((3, 1000)), [simple_row(SamplingParams(seed=n)) for n in range(3)]
    late = Sampler()
    tokens = late.sample(mx.array(flat), mx.array([0, 0, 0]), rows)
    fewer = mx.concatenate([tokens[mx.array([2, 0])], mx.array([7], dtype=tokens.dtype)])
    assert late.is_late
    assert not rows[0].drawn
    late.settle()
    assert not late.is_late
    again = [simple_row(SamplingParams(seed=n)) for n in range(3)]
    expected = draw(flat, [0, 0, 0], again)
    assert tokens.tolist() == expected
    assert fewer.tolist() == [expected[2], expected[0], 7]
    assert all(len(row.drawn) == 1 for row in rows)
