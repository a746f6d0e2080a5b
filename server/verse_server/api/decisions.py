"""`/v1/decisions`: what the poet decides on the page goes into the journal of `verse curate`.

The journal is opened for one entry and let go again, so a window of `verse curate` can have it in
between. While one does, the answer is 409, and the page keeps the decision until it is taken.
Where the journal lies is said on the command line; no request names a file.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
from litestar import Controller, Request, delete, post
from litestar.di import NamedDependency
from litestar.params import JSONBody, PathParameter, SkipValidation

from verse.decision_journal import JournalError, LockedError, edit_distance, open_journal
from verse.journal import Journal
from verse.model_spelling import BASE, ModelSpellingError, parse_model
from verse.records import Candidate, Decision, JournalEntry, PairDecision, Sampling, Undo
from verse.replay import IMPORTED, Replay
from verse_server.api.decoding import StrictDecisionBody
from verse_server.api.errors import RequestError
from verse_server.api.openapi import EngineDependency, error_responses
from verse_server.engine.interface import Engine
from verse_server.protocol.page import DecidedPoem, DecisionRecord, DecisionRequest

T = TypeVar("T")

_ERRORS = error_responses(400, 401, 404, 409, 413, 503)


class DecisionWriter:
    """Adds to one journal, entry by entry, in a thread of its own."""

    def __init__(self, path: Path | None) -> None:
        """Take the journal's file; None keeps no decisions."""
        self._path = path
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="decisions")

    async def decide(self, decision: Decision) -> DecisionRecord:
        """Bring a decision to the disk, unless it stands there already: a page may send it again.

        Nobody is blind to a poem whose source the journal says was seen before.

        Raises:
            RequestError: no journal is kept, or it cannot be written now.
        """

        def add(journal: Journal[JournalEntry]) -> DecisionRecord:
            replay, poem = Replay(journal.entries), decision.candidate.id
            blind = decision.blind and not replay.was_seen(poem)
            entry = msgspec.structs.replace(decision, blind=blind)
            standing = replay.verdict(poem)
            if standing is not None and _says_the_same(standing, entry):
                numbered = enumerate(journal.entries, 1)
                return _record(next(n for n, each in numbered if each is standing), standing)
            journal.write(entry)
            return _record(len(journal.entries), entry)

        return await self._with_journal(add)

    async def undo(self, number: int) -> DecisionRecord:
        """Take back the entry at a place, from 1; raises as `decide`, and if there is none."""

        def add(journal: Journal[JournalEntry]) -> DecisionRecord:
            entry = _in_effect(journal.entries, number)
            journal.write(Undo(undone=number, time=datetime.now(UTC), session=entry.session))
            place = len(journal.entries)
            return msgspec.structs.replace(_record(place, entry), object="decision.undo")

        return await self._with_journal(add)

    async def _with_journal(self, use: Callable[[Journal[JournalEntry]], T]) -> T:
        path = self._path
        if path is None:
            raise RequestError(
                "This server keeps no decisions; start it without --no-decisions.",
                code="decisions_off",
                status=404,
            )
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, lambda: _used(path, use))


def _used(path: Path, use: Callable[[Journal[JournalEntry]], T]) -> T:
    journal = _opened(path)
    try:
        answer = use(journal)
    finally:
        is_written = journal.close()
    if not is_written:
        raise _unwritable(journal.problem)
    return answer


def _opened(path: Path) -> Journal[JournalEntry]:
    try:
        return open_journal(path)
    except LockedError:
        raise RequestError(
            "The decisions are open in another window; close it, and send this again.",
            code="decisions_in_use",
            status=409,
        ) from None
    except JournalError as error:
        raise RequestError(str(error), code="decisions_unreadable", status=503) from error


def _unwritable(problem: str | None) -> RequestError:
    return RequestError(
        f"The decisions cannot be written ({problem}); make room for them, and send this again.",
        code="decisions_unwritable",
        status=503,
    )


def _in_effect(entries: list[JournalEntry], number: int) -> Decision:
    """The decision at a place, unless it was taken back or came from elsewhere."""
    entry = entries[number - 1] if 0 < number <= len(entries) else None
    stands = any(entry is standing for standing in Replay(entries).in_effect())
    if not isinstance(entry, Decision) or not stands or entry.session == IMPORTED:
        raise RequestError(
            f"There is no decision {number} that stands.", code="decision_not_found", status=404
        )
    return entry


def _says_the_same(one: Decision | PairDecision, other: Decision) -> bool:
    fields = ("action", "text", "blind", "session")
    return all(getattr(one, field, None) == getattr(other, field) for field in fields)


def _record(place: int, decision: Decision) -> DecisionRecord:
    return DecisionRecord(
        number=place,
        action=decision.action,
        poem=decision.candidate.id,
        edit_distance=decision.edit_distance,
    )


def decision_of(data: DecisionRequest, engine: Engine, server: str, now: datetime) -> Decision:
    """The entry of the journal, as `verse curate` would write it.

    Raises:
        RequestError: the parts of the request contradict each other.
    """
    if (data.action == "edit") != (data.text is not None):
        raise RequestError(
            "'text' is the poem as it was changed; send it with the action 'edit' alone.",
            param="text",
        )
    candidate = _candidate(data.poem, engine, server)
    text = data.text
    if text is not None and not text.strip():
        raise RequestError("An edited poem must not be empty.", param="text")
    # A text that was not changed after all is an acceptance, as in the window.
    is_edit = text is not None and text != candidate.text
    return Decision(
        action="accept" if text is not None and not is_edit else data.action,
        candidate=candidate,
        text=text if is_edit else None,
        edit_distance=edit_distance(candidate.text, text) if is_edit and text else None,
        blind=data.blind,
        order=data.order,
        order_seed=data.order_seed,
        time=now,
        session=data.session,
    )


def _candidate(poem: DecidedPoem, engine: Engine, server: str) -> Candidate:
    """The poem as `verse generate` would have written it down."""
    if not poem.text.strip():
        raise RequestError("The poem is empty.", param="poem.text")
    adapter, checkpoint = _source(poem.model, engine)
    return Candidate(
        theme=poem.theme,
        text=poem.text,
        adapter=adapter,
        digest=poem.system_fingerprint,
        checkpoint=checkpoint,
        seed=poem.seed,
        sampling=Sampling(temperature=poem.temperature, max_tokens=poem.max_tokens),
        finish_reason=poem.finish_reason,
        prompt_tokens=poem.prompt_tokens,
        completion_tokens=poem.completion_tokens,
        server=server,
    )


def _source(model: str, engine: Engine) -> tuple[str | None, Any]:
    """Adapter and checkpoint; a strength or a blend is an adapter of its own."""
    if model in (BASE, engine.base.id):
        return None, None
    try:
        parts = parse_model(model)
    except ModelSpellingError as error:
        raise RequestError(str(error), param="poem.model") from error
    if len(parts) == 1 and parts[0].strength == 1:
        return parts[0].name, parts[0].checkpoint
    return model, None


DecisionsDependency = NamedDependency[SkipValidation[DecisionWriter]]


class DecisionsController(Controller):
    """The poet's decisions about poems that this server wrote."""

    path = "/decisions"
    tags = ("decisions",)

    @post(status_code=200, dto=StrictDecisionBody, return_dto=None, responses=_ERRORS)
    async def decide(
        self,
        request: Request[Any, Any, Any],
        data: JSONBody[DecisionRequest],
        engine: EngineDependency,
        decisions: DecisionsDependency,
    ) -> DecisionRecord:
        """Accept, edit or reject a poem; it is on the disk when this answers."""
        server = f"{str(request.base_url).rstrip('/')}/v1"
        return await decisions.decide(decision_of(data, engine, server, datetime.now(UTC)))

    @delete("/{number:int}", status_code=200, responses=_ERRORS)
    async def undo(
        self,
        number: Annotated[int, PathParameter(ge=1, le=2**31 - 1)],
        decisions: DecisionsDependency,
    ) -> DecisionRecord:
        """Take a decision back. Nothing is erased: the journal gets an entry that says so."""
        return await decisions.undo(number)
