"""The judge that is not asked: a server computes how likely its base and adapters find the poems.

A poem's prompts are the tokens of the frame around a theme, then those of the poem, the same ones
whatever the theme. All of one model go in one request. What comes back is kept like any judge's
answer, and never computed twice.
"""

import asyncio
import hashlib
import random
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import msgspec

from verse.prompt import POEM_SYSTEM, Message
from verse.records import Candidate, Judgment, LikelihoodScores
from verse_clients.answers import ScoredPrompt, ScoredPrompts, Tokenized
from verse_clients.chat_prompts import messages
from verse_clients.errors import (
    BadRequestError,
    NoCompletionError,
    ServerError,
    UnknownModelError,
)
from verse_clients.judge.client import JudgeContext
from verse_clients.judge.costs import BudgetSpentError
from verse_clients.judge.likelihood import LineScores, lines_of_tokens, scores_of
from verse_clients.judge.ranked import LIKELIHOOD
from verse_clients.model_identity import identity_of
from verse_clients.server_pool import PooledServer, ServerPool

PROMPT = f"{LIKELIHOOD}-1"
"""In place of the name of instructions; another number where anything here changes a figure."""
NUM_CONTRASTED = 4
"""Other themes that a poem is held against."""
BASE = "base"


class ScoringServer(PooledServer, Protocol):
    """Who computes; see `openai_client.AsyncServer`."""

    async def tokenize(self, model: str, messages: Sequence[Message]) -> Tokenized:
        """Of a conversation."""
        ...

    async def tokenize_text(self, text: str) -> Tokenized:
        """Of a text alone."""
        ...

    async def score(self, model: str, prompts: Sequence[Sequence[int]]) -> ScoredPrompts:
        """How likely a model finds the tokens of prompts."""
        ...


class Contrast(NamedTuple):
    """One poem, and what its likelihood is measured by."""

    poem: Candidate
    themes: tuple[str, ...]
    """Other themes of the run."""
    seed: int


def contrasts(poems: Sequence[Candidate], seed: int) -> list[Contrast]:
    """For each poem a few other themes of the run, by lot; the same for the same poems and seed."""
    themes = sorted({poem.theme for poem in poems})
    numbers = {theme: number for number, theme in enumerate(themes)}
    found: list[Contrast] = []
    for poem in poems:
        rng = random.Random(f"{seed} {poem.id}")
        own = numbers[poem.theme]
        drawn = rng.sample(range(len(themes) - 1), min(NUM_CONTRASTED, len(themes) - 1))
        chosen = [themes[number + (number >= own)] for number in drawn]
        found.append(Contrast(poem, tuple(chosen), rng.getrandbits(31)))
    return found


class LikelihoodJudge:
    """Scores poems by what one server's base and adapters make of them."""

    def __init__(
        self,
        servers: ServerPool[ScoringServer],
        context: JudgeContext,
        *,
        concurrency: int,
    ) -> None:
        """Nothing is sent yet; `concurrency` is poems at a time."""
        self.name = LIKELIHOOD
        self.servers = servers
        self.server = servers.servers[0]
        """The first: it stands for all where one is enough."""
        self._context = context
        self.concurrency = concurrency
        self._slots = asyncio.Semaphore(concurrency)
        self._adapters: dict[str, str | None] = {}
        self._frames: dict[tuple[str, str | None, str], Tokenized] = {}
        self.identity = ""
        """What the server says of its base beyond the name."""

    async def identify(self, poems: Sequence[Candidate]) -> None:
        """Ask which base and which of the poems' adapters are served.

        Raises:
            ServerError: the server does not say, or computes no log-probabilities.
            SelectionError: several servers have different weights.
        """
        self.identity = await self.servers.ask_first(lambda server: identity_of(server, BASE))
        for model in {poem.model for poem in poems if poem.adapter is not None}:
            try:
                await self.servers.ask_first(lambda server, model=model: server.model(model))
            except UnknownModelError:
                self._adapters[model] = None
            else:
                said = await self.servers.ask_first(
                    lambda server, model=model: identity_of(server, model)
                )
                self._adapters[model] = said or model
        await self.servers.agree([BASE, *(name for name, said in self._adapters.items() if said)])
        try:
            await self.servers.ask(lambda server: server.tokenize_text("诗"))
        except (BadRequestError, NoCompletionError, UnknownModelError) as error:
            raise self._cannot() from error
        except ServerError as error:
            if error.status != 404:
                raise
            raise self._cannot() from error

    def known(self, contrast: Contrast) -> Judgment | None:
        """What was computed before, by any of the servers."""
        keys = (self._key(contrast, server.base_url) for server in self.servers.servers)
        return next(filter(None, map(self._context.judgments.find, keys)), None)

    async def judge(self, contrast: Contrast) -> Judgment | None:
        """The scores of a poem, known or new; None where a limit allows no more.

        Raises:
            ServerError: going on makes no sense.
            OutputError: the disk refuses.
        """
        if (known := self.known(contrast)) is not None:
            return known
        async with self._slots:
            try:
                return await self._judge(contrast)
            except BudgetSpentError:
                return None

    async def _judge(self, contrast: Contrast) -> Judgment:
        poem, themes = contrast.poem, (contrast.poem.theme, *contrast.themes)
        frames = [await self._frame(BASE, poem, theme) for theme in themes]
        is_served = poem.adapter is not None and self._adapters.get(poem.model) is not None
        writer = await self._frame(poem.model, poem, poem.theme) if is_served else None
        tokens = (await self.servers.ask(lambda server: server.tokenize_text(poem.text))).tokens
        room = min(
            f.max_model_len - len(f.tokens) for f in [*frames, *([writer] if writer else [])]
        )
        if not tokens or len(tokens) >= room:
            said = f"Its length is {len(tokens)}; the model's context leaves room for {room}."
            return await self._keep(contrast, "failed", reply=said)
        base, base_url = await self._score(BASE, frames, tokens)
        voice = (await self._score(poem.model, [writer], tokens))[0] if writer else None
        if voice is not None and poem.digest not in (None, voice.fingerprint):
            voice = None  # other weights stand under that name now
        own, *others = _line_scores(base, frames, len(tokens))
        gain = (
            None if voice is None or writer is None else _line_scores(voice, [writer], len(tokens))
        )
        return await self._keep(
            contrast,
            "judged",
            base_url=base_url,
            likelihood=scores_of(own, others, gain[0] if gain else None, contrast.seed),
            prompt_tokens=base.num_tokens + (voice.num_tokens if voice else 0),
            fingerprint=base.fingerprint,
        )

    async def _frame(self, model: str, poem: Candidate, theme: str) -> Tokenized:
        """What stands before a poem when it is asked for as this one was, on some theme."""
        key = (model, poem.variant, theme)
        if key not in self._frames:
            asked = messages(poem.variant, theme)
            if model == BASE and asked[0].role != "system":
                asked = [Message("system", POEM_SYSTEM), *asked]
            self._frames[key] = await self.servers.ask(lambda server: server.tokenize(model, asked))
        return self._frames[key]

    async def _score(
        self, model: str, frames: Sequence[Tokenized], tokens: tuple[int, ...]
    ) -> tuple[ScoredPrompts, str]:
        """Log-probabilities, and the address of who computed them."""
        prompts = [[*frame.tokens, *tokens] for frame in frames]

        async def scored(server: ScoringServer) -> tuple[ScoredPrompts, str]:
            return await server.score(model, prompts), server.base_url

        await self._context.budget.reserve(0.0)
        try:
            return await self.servers.ask(scored)
        except NoCompletionError as error:
            raise self._cannot() from error
        finally:
            self._context.budget.settle(0.0, 0.0)

    def _cannot(self) -> ServerError:
        return ServerError(
            f"{self.server.base_url} tells no log-probabilities of a prompt, which --judge "
            f"{LIKELIHOOD} needs; name the --base-url of a `verse serve`."
        )

    async def _keep(
        self,
        contrast: Contrast,
        outcome: str,
        *,
        base_url: str | None = None,
        likelihood: LikelihoodScores | None = None,
        **fields: Any,
    ) -> Judgment:
        given: Mapping[str, Any] = {"outcome": outcome, **fields}
        whose = base_url or self.server.base_url
        judgment = Judgment(
            key=self._key(contrast, whose),
            judge=self.name,
            server=whose,
            identity=self.identity,
            prompt=PROMPT,
            candidates=(contrast.poem.id,),
            likelihood=likelihood,
            time=self._context.clock(),
            **given,
        )
        await self._context.judgments.add(judgment)
        self._context.on_answer(judgment)
        return judgment

    def _key(self, contrast: Contrast, base_url: str) -> str:
        """Hash of all that can change the figures: 32 hex digits."""
        poem = contrast.poem
        writer = None if poem.adapter is None else self._adapters.get(poem.model)
        whose = (base_url, self.identity, poem.model if writer else None, writer)
        what = (poem.theme, poem.text, poem.variant, poem.digest, contrast.themes, contrast.seed)
        parts = msgspec.json.encode([PROMPT, *whose, *what])
        return hashlib.sha256(parts).hexdigest()[:32]


def _line_scores(
    scored: ScoredPrompts, frames: Sequence[Tokenized], num_tokens: int
) -> list[LineScores]:
    """Of each prompt its last tokens, which are the poem."""
    return [
        _poem_of(prompt, len(frame.tokens), num_tokens)
        for prompt, frame in zip(scored.prompts, frames, strict=True)
    ]


def _poem_of(prompt: ScoredPrompt, begin: int, num_tokens: int) -> LineScores:
    logprobs = prompt.logprobs[begin : begin + num_tokens]
    offsets = prompt.offsets[begin : begin + num_tokens]
    numbers = tuple(0.0 if value is None else value for value in logprobs)
    return LineScores(numbers, lines_of_tokens(prompt.text, offsets))
