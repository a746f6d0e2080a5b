"""What a run would ask and cost, without asking. Pure."""

from collections.abc import Container, Sequence
from typing import NamedTuple

from verse_clients.judge.costs import FREE, Price, likely_tokens
from verse_clients.judge.court import Court, Procedure
from verse_clients.judge.panel import Member
from verse_clients.judge.prompts import Manner, Question, key_of
from verse_clients.judge.ranking import num_batches

_LIKELY_ANSWER = {"rubric": 220, "ranking": 260}
"""Tokens that judges without hidden reasoning write."""


class _Load(NamedTuple):
    """Questions of one kind."""

    calls: int
    prompt_tokens: float
    answer_tokens: int


def estimate(
    court: Court,
    members: Sequence[Member],
    identities: Sequence[str],
    procedure: Procedure,
    manner: Manner,
    known: Container[str],
) -> list[str]:
    """One line for each judge: calls, tokens, price."""
    questions = court.rubric_questions()
    lines: list[str] = []
    for member, who in zip(members, identities, strict=True):
        keys = [key_of(q, member.model, member.server.base_url, manner, who) for q in questions]
        missing = [q for q, key in zip(questions, keys, strict=True) if key not in known]
        rubric = _load(missing, len(missing))
        batch = questions[: procedure.size]
        sample = [court.ranking_question([q.candidates[0] for q in batch])] if batch else []
        most = procedure.rounds * num_batches(len(questions), procedure.size)
        lines.append(_line(member, rubric, _load(sample, most), manner))
    return lines


def _load(questions: Sequence[Question], calls: int) -> _Load:
    if not questions:
        return _Load(0, 0.0, 0)
    mean = sum(likely_tokens(question.messages) for question in questions) / len(questions)
    return _Load(calls, mean, _LIKELY_ANSWER[questions[0].kind])


def _line(member: Member, rubric: _Load, ranking: _Load, manner: Manner) -> str:
    loads = (rubric, ranking)
    tokens = sum(load.calls * (load.prompt_tokens + load.answer_tokens) for load in loads)
    return (
        f"{member.name} at {member.server.base_url}: {rubric.calls} rubric calls, at most "
        f"{ranking.calls} comparisons, about {tokens:.0f} tokens, "
        f"{_price(member.price, loads, manner)}."
    )


def _price(price: Price | None, loads: Sequence[_Load], manner: Manner) -> str:
    if price is None:
        return "price unknown (give --price)"
    if price == FREE:
        return "$0 (a server of your own)"
    likely = sum(load.calls * price.of(load.prompt_tokens, load.answer_tokens) for load in loads)
    most = sum(load.calls * price.of(load.prompt_tokens, manner.max_tokens) for load in loads)
    return f"about ${likely:.4f}, ${most:.4f} if every answer were as long as allowed"
