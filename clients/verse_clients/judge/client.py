"""One judge: asks it in a form its server takes, and makes a judgment of whatever comes back.

An answer is judged, unparsed, refused, truncated or failed, and is kept in any case. Only what
concerns all questions (a wrong key, an unknown model, a server that stays away) ends the run.

Servers differ in `response_format` (json_schema, json_object, or none of it), some models want
`max_completion_tokens` for `max_tokens`, and some take no `temperature`: the form is found out by
asking, one step down at a time.

An answer belongs to what the server's list says of the model beyond its name (`model_identity`).
"""

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any, Literal, NamedTuple, Protocol

import msgspec

from verse.prompt import Message
from verse.records import AnswerFormat, Judgment
from verse_clients.answers import Answer, Tokenized
from verse_clients.errors import (
    BadRequestError,
    BrokenServerError,
    InputError,
    NoCompletionError,
    ServerDownError,
    ServerError,
    ServerTimeoutError,
    UnauthorisedError,
)
from verse_clients.judge.costs import Budget, Price, likely_tokens, most_tokens
from verse_clients.judge.judgments import Judgments
from verse_clients.judge.prompts import LIKELY_ANSWER, JudgeSampling, Kind, Question, key_of
from verse_clients.judge.ranked import LIKELIHOOD
from verse_clients.judge.replies import read_ranking, read_scores, schema_of
from verse_clients.model_identity import NOT_NOW, identity_of, listed_context
from verse_clients.server_pool import PooledServer, ServerPool

_LOWER: dict[AnswerFormat, AnswerFormat] = {"json_schema": "json_object", "json_object": "text"}
_NAMES_FORMAT = ("response_format", "json_schema", "json_object", "schema")
_NOT_THE_FORM = ("context_length_exceeded", "content_policy_violation")
_OWN_FAULT = (BadRequestError, BrokenServerError, NoCompletionError, ServerTimeoutError)
"""Errors that may concern one question alone."""
_MAY_COST = (NoCompletionError, ServerTimeoutError)
"""Errors after which the server may have done, and charged for, the work."""
_SHORT = (Message("user", "诗"),)
_LEAST_SHARE = 0.5
"""Of the tokens that are likely: no tokenizer in use makes fewer of a Chinese text."""
_FAILED_IN_A_ROW = 5
"""So many without an answer between them are the server's trouble, not the poems'."""


class Dialect(msgspec.Struct, frozen=True, kw_only=True):
    """How one model of one server is asked."""

    format: AnswerFormat = "json_schema"
    limit: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    takes_temperature: bool = True
    is_proven: bool = False
    """Whether it was answered once: then an unclear refusal is about the question."""


def response_format(
    dialect: Dialect, kind: Kind, labels: tuple[str, ...] = ()
) -> dict[str, Any] | None:
    """The request's field; None to leave it out. `labels` are those of the poems to be ordered."""
    match dialect.format:
        case "json_schema":
            schema = {"name": kind, "strict": True, "schema": schema_of(kind, labels)}
            return {"type": "json_schema", "json_schema": schema}
        case "json_object":
            return {"type": "json_object"}
        case "text":
            return None


def after_refusal(dialect: Dialect, error: BadRequestError) -> Dialect | None:
    """The form to try next; None if the refusal is not about the form."""
    said = str(error).lower()
    if "max_completion_tokens" in said and dialect.limit == "max_tokens":
        return msgspec.structs.replace(dialect, limit="max_completion_tokens")
    if "temperature" in said and dialect.takes_temperature:
        return msgspec.structs.replace(dialect, takes_temperature=False)
    names_format = any(name in said for name in _NAMES_FORMAT)
    is_unclear = not dialect.is_proven and error.code not in _NOT_THE_FORM
    if dialect.format != "text" and (names_format or is_unclear):
        return msgspec.structs.replace(dialect, format=_LOWER[dialect.format])
    return None


class ChatServer(PooledServer, Protocol):
    """Who is asked; see `openai_client.AsyncServer`."""

    async def complete(
        self,
        model: str,
        messages: Sequence[Message],
        *,
        temperature: float | None = None,
        max_tokens: int | None = None,
        max_completion_tokens: int | None = None,
        response_format: Mapping[str, Any] | None = None,
    ) -> Answer:
        """One answer."""
        ...

    async def tokenize(self, model: str, messages: Sequence[Message]) -> Tokenized:
        """The tokens of a conversation, and how many the model can bear."""
        ...


class JudgeContext(NamedTuple):
    """What all judges of a run share."""

    judgments: Judgments
    budget: Budget
    sampling: JudgeSampling
    clock: Callable[[], datetime]
    on_answer: Callable[[Judgment], object]
    """Called with each new answer."""


class Judge:
    """A model of a server, asked as many questions at a time as suits it."""

    def __init__(
        self,
        name: str,
        model: str,
        servers: ServerPool[ChatServer],
        context: JudgeContext,
        *,
        price: Price | None,
        concurrency: int,
    ) -> None:
        """Nothing is sent yet.

        Args:
            name: What reports call it.
            model: What the server calls it.
            servers: Where it is; several are asked as one.
            context: What it shares with the others.
            price: What it costs; None if it is not known.
            concurrency: Questions at a time.
        """
        self.name = name
        self.model = model
        self.servers = servers
        self.server = servers.servers[0]
        """The first: it stands for all where one is enough."""
        self.price = price
        self._context = context
        known = context.judgments.format_of(self.server.base_url, model)
        self._dialect = Dialect() if known is None else Dialect(format=known)
        self.concurrency = concurrency
        self._slots = asyncio.Semaphore(concurrency)
        self._proving = asyncio.Lock()
        self._failed_in_a_row = 0
        earlier = context.judgments.identity_of(self.server.base_url, model)
        self._was_asked_before = earlier is not None
        self.identity = earlier or ""
        """Who answers to the name; until the server says it, who did the last time."""
        self._is_identified = False

    async def identify(self) -> None:
        """Ask the server who it is; one that cannot say it now is asked again before a question.

        Raises:
            SelectionError: several servers have different models under the name.
        """
        for server in self.servers.servers:
            try:
                self.identity = await identity_of(server, self.model)
            except NOT_NOW:
                continue
            await self.servers.agree([self.model])
            self._is_identified = True
            return

    def known(self, question: Question) -> Judgment | None:
        """The answer to a question that was asked before, by any of the servers."""
        found = (self._context.judgments.find(key) for key in self._keys(question))
        return next(filter(None, found), None)

    async def ask(self, question: Question) -> Judgment:
        """The answer to a question: the one that is known, or a new one, which is on the disk.

        Raises:
            ServerError: asking on makes no sense.
            BudgetSpentError: a limit is reached.
            OutputError: the disk refuses.
        """
        if (known := self.known(question)) is not None:
            return known
        async with self._slots:
            if not self._dialect.is_proven:
                # The first question goes alone: which form the server takes is found out once.
                async with self._proving:
                    if not self._dialect.is_proven:
                        return await self._ask(question)
            return await self._ask(question)

    async def _ask(self, question: Question) -> Judgment:
        await self._check_identity()
        try:
            answer, base_url = await self._in_its_form(question)
        except _OWN_FAULT as error:
            first = self.server.base_url
            failed = await self._keep(question, "failed", base_url=first, reply=str(error))
            self._failed_in_a_row += 1
            if self._failed_in_a_row >= _FAILED_IN_A_ROW:
                raise
            return failed
        self._failed_in_a_row = 0
        return await self._keep(
            question,
            _trouble(answer),
            base_url=base_url,
            format=self._dialect.format,
            reply=answer.refusal or answer.text,
            prompt_tokens=answer.prompt_tokens or 0,
            completion_tokens=answer.completion_tokens or 0,
            request_id=answer.request_id,
            fingerprint=answer.fingerprint,
        )

    async def _check_identity(self) -> None:
        """Before the first question, if the server did not answer when the run began."""
        if self._is_identified:
            return
        try:
            said = await self.servers.ask_first(lambda server: identity_of(server, self.model))
            await self.servers.agree([self.model])
        except UnauthorisedError:
            said = self.identity  # some keys may ask models and not list them
        self._is_identified = True
        assumed, self.identity = self.identity, said
        if said != assumed and self._was_asked_before:
            raise ServerError(
                f"A different model now answers as {self.model} at {self.server.base_url}."
            )

    async def _in_its_form(self, question: Question) -> tuple[Answer, str]:
        """An answer, and the address of who gave it."""
        dialect = self._dialect
        while True:
            form = dialect
            try:
                answered = await self.servers.ask(
                    lambda server, form=form: self._attempt(server, question, form)
                )
            except BadRequestError as error:
                lower = after_refusal(dialect, error)
                if lower is None:
                    raise
                dialect = lower
            else:
                self._dialect = msgspec.structs.replace(dialect, is_proven=True)
                return answered

    async def _attempt(
        self, server: ChatServer, question: Question, dialect: Dialect
    ) -> tuple[Answer, str]:
        sampling, budget = self._context.sampling, self._context.budget
        most = self._cost(most_tokens(question.messages), sampling.max_tokens)
        await budget.reserve(most)
        limit: dict[str, Any] = {dialect.limit: sampling.max_tokens}
        try:
            answer = await server.complete(
                self.model,
                question.messages,
                temperature=sampling.temperature if dialect.takes_temperature else None,
                response_format=response_format(dialect, question.kind, question.labels),
                **limit,
            )
        except ServerDownError:
            budget.give_back(most)
            raise
        except _MAY_COST:
            budget.settle(most, most)
            raise
        except BaseException:
            budget.settle(most, 0.0)
            raise
        budget.settle(most, self._actual(answer, most))
        return answer, server.base_url

    def _actual(self, answer: Answer, most: float) -> float:
        if answer.prompt_tokens is None or answer.completion_tokens is None:
            return most
        return self._cost(answer.prompt_tokens, answer.completion_tokens)

    def _cost(self, prompt_tokens: int, completion_tokens: int) -> float:
        return 0.0 if self.price is None else self.price.of(prompt_tokens, completion_tokens)

    async def _keep(
        self, question: Question, trouble: str | None, *, base_url: str, **fields: Any
    ) -> Judgment:
        judgment = Judgment(
            key=self._key(question, base_url),
            judge=self.model,
            server=base_url,
            identity=self.identity,
            prompt=question.prompt,
            candidates=question.candidates,
            time=self._context.clock(),
            **_verdict(question, trouble, fields["reply"]),
            **fields,
        )
        await self._context.judgments.add(judgment)
        self._context.on_answer(judgment)
        return judgment

    def _keys(self, question: Question) -> Iterator[str]:
        return (self._key(question, server.base_url) for server in self.servers.servers)

    def _key(self, question: Question, base_url: str) -> str:
        return key_of(question, self.model, base_url, self._context.sampling, self.identity)


async def check_context(
    name: str, model: str, servers: Iterable[ChatServer], questions: Sequence[Question]
) -> None:
    """See that a judge can bear questions of these lengths, on each of its servers that tells.

    Raises:
        InputError: one cannot.
    """
    for server in servers:
        with suppress(ServerError):  # few tell; what goes wrong is said when they are asked
            for question in questions:
                context, tokens = await _measured(server, model, question)
                needed = tokens + LIKELY_ANSWER[question.kind]
                if context and needed > context:
                    raise InputError(
                        f"The judge {name} at {server.base_url} has a context of {context} "
                        f"tokens, and a {question.kind} question with its answer takes {needed} or "
                        f"more; name another --judge, or --judge {LIKELIHOOD}."
                    )


async def _measured(server: ChatServer, model: str, question: Question) -> tuple[int | None, int]:
    """A server's context for a model, and the tokens of a question: at least so many."""
    try:
        found = await server.tokenize(model, question.messages)
    except ServerError as error:
        if error.code == "context_length_exceeded":
            context = (await server.tokenize(model, _SHORT)).max_model_len
            return context, context + 1
        least = likely_tokens(question.messages) * _LEAST_SHARE
        return await listed_context(server, model), round(least)
    return found.max_model_len, len(found.tokens)


def _trouble(answer: Answer) -> str | None:
    if answer.refusal is not None or answer.finish_reason == "content_filter":
        return "refused"
    return "truncated" if answer.finish_reason == "length" else None


def _verdict(question: Question, trouble: str | None, reply: str) -> dict[str, Any]:
    """What the answer says, or why it says nothing."""
    if trouble is not None:
        return {"outcome": trouble}
    if question.kind == "rubric":
        scores = read_scores(reply, question.messages[-1].content)
        return {"outcome": "unparsed" if scores is None else "judged", "scores": scores}
    ranking = read_ranking(reply, question)
    return {"outcome": "unparsed" if ranking is None else "judged", "ranking": ranking}
