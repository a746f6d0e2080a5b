"""The records that travel between the parts in JSON Lines files.

    Poem             what the poet wrote: the training data
    Candidate        what a model wrote, and how
    Judgment         what a judge said about candidates
    Decision         what the poet decided about one candidate
    PairDecision     which of two the poet preferred
    Undo             that an earlier entry of the journal no longer counts
    TrainingExample  a conversation to learn from
    PreferencePair   two answers to one theme, the better and the worse

A file written today must still be read in a year: a new field always has a default, and no field
changes its meaning. Fields a reader does not know are passed over.
"""

import hashlib
import re
import unicodedata
from datetime import datetime
from typing import Annotated, Literal

import msgspec

from verse.model_spelling import BASE
from verse.prompt import Message

Origin = Literal["poet", "accepted", "edited"]
"""Who wrote a text: the poet, a model, or a model with the poet's changes."""

AnswerFormat = Literal["json_schema", "json_object", "text"]
"""How a judge was asked for its answer: by a schema, as any JSON, or in words."""

OrderName = Literal["file", "shuffle", "score", "disagreement", "theme", "active"]
"""An order in which `verse curate` shows poems."""

_ID_DIGITS = 16  # 64 bits: two of a million poems meet with a chance of about 1 in 37 million

Moment = Annotated[datetime, msgspec.Meta(tz=True)]
"""A time with its zone; written in UTC."""
CriterionScore = Annotated[int, msgspec.Meta(ge=0, le=5)]
Count = Annotated[int, msgspec.Meta(ge=0)]
Position = Annotated[int, msgspec.Meta(ge=1)]


def content_id(*parts: str | int | None) -> str:
    """Hash the parts, in order, to 16 hex digits: an id that is the same on every machine.

    Text counts as it reads: line ends, trailing spaces, blank lines around it and the Unicode form
    of a character make no difference.
    """
    as_read = [_as_read(part) if isinstance(part, str) else part for part in parts]
    # JSON keeps the parts apart: ("ab", "c") and ("a", "bc") differ.
    return hashlib.sha256(msgspec.json.encode(as_read)).hexdigest()[:_ID_DIGITS]


def looks_like_id(value: object) -> bool:
    """Whether it is an id that `content_id` gives."""
    return isinstance(value, str) and re.fullmatch(rf"[0-9a-f]{{{_ID_DIGITS}}}", value) is not None


def _as_read(text: str) -> str:
    lines = unicodedata.normalize("NFC", text).splitlines()
    return "\n".join(line.rstrip() for line in lines).strip("\n")


class Poem(msgspec.Struct, frozen=True, kw_only=True):
    """A poem and the theme it answers."""

    theme: str
    text: str
    """Line breaks and leading spaces as written."""
    id: str = ""
    """Follows from theme and text when it is left out."""
    source: str = ""
    """Where it was found: a file and line, or the id of the candidate it was."""
    origin: Origin = "poet"
    author: str = ""
    """Who wrote it, where its file says so; no part of the text."""
    date: str = ""
    """When, and perhaps where, as the file has it."""

    def __post_init__(self) -> None:
        _fill_id(self, self.id, self.theme, self.text)


class Sampling(msgspec.Struct, frozen=True, kw_only=True):
    """How the tokens of a candidate were drawn; None left it to the server."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    max_tokens: int | None = None


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """A poem that a model wrote, with all it takes to write it again."""

    theme: str
    text: str
    """Line breaks and leading spaces as written."""
    id: str = ""
    """Follows from theme, text and origin when it is left out."""
    adapter: str | None = None
    """Name of the adapter; None for the base model alone."""
    digest: str | None = None
    """Version of the weights, as the server reports it."""
    checkpoint: int | Literal["best", "last"] | None = None
    """A step, or as it was asked for; None for the published weights."""
    variant: str | None = None
    """The prompt variant as its file has it; None when the theme alone was the prompt."""
    sample: Count = 0
    """Tells the candidates of one theme, adapter, checkpoint and variant apart."""
    seed: int | None = None
    sampling: Sampling = Sampling()
    finish_reason: Literal["stop", "length", "content_filter"] | None = None
    """`length` marks a poem that was cut off; None where a foreign file does not say."""
    prompt_tokens: Count | None = None
    completion_tokens: Count | None = None
    time: Moment | None = None
    """When it was written."""
    server: str | None = None
    """Base URL of the API."""
    raw: str | None = None
    """What the model wrote, word for word, where `text` is less than that."""
    duplicate_of: str | None = None
    """Id of the earlier poem it repeats or nearly repeats."""
    copied_from: str | None = None
    """Name of the training poem that it takes something over from."""
    copied_run: str = ""
    """The longest run of characters taken over, without punctuation and spaces."""
    blocked: Literal["duplicate", "copy", "empty", "thought"] | None = None
    """Why it is kept from the judge; None if nothing speaks against it."""

    def __post_init__(self) -> None:
        checkpoint = None if self.checkpoint is None else str(self.checkpoint)
        origin = (self.adapter, self.digest, checkpoint, self.variant, self.seed, self.sample)
        _fill_id(self, self.id, self.theme, self.text, *origin)

    @property
    def model(self) -> str:
        """Adapter and checkpoint in one, as a request would name them; `base` for the base."""
        name = self.adapter or BASE
        return name if self.checkpoint is None else f"{name}@{self.checkpoint}"


class RubricScores(msgspec.Struct, frozen=True, kw_only=True):
    """One poem by the four criteria, 0 to 5 each. Totals are never asked of a judge."""

    theme_adherence: CriterionScore
    poetic_quality: CriterionScore
    fluency: CriterionScore
    emotional_resonance: CriterionScore


class LikelihoodMeasure(msgspec.Struct, frozen=True, kw_only=True):
    """A figure and its standard error."""

    value: float
    error: float


class LikelihoodScores(msgspec.Struct, frozen=True, kw_only=True):
    """What log-probabilities say of one poem: means over its tokens, in nats."""

    theme_adherence: LikelihoodMeasure | None = None
    """How much likelier under its theme than under others; None where a run has no others."""
    fluency: LikelihoodMeasure
    """Its log-probability under the base."""
    voice: LikelihoodMeasure | None = None
    """How much likelier to the adapter that wrote it than to the base; None where there is none."""


class Judgment(msgspec.Struct, frozen=True, kw_only=True):
    """One answer of one judge. An answer that could not be used is kept, and scores nothing."""

    key: str
    """Hash of all that can change the answer; asking again with the same key is free."""
    judge: str
    """The judge's model name."""
    server: str
    """Base URL of the API."""
    identity: str = ""
    """What the server's list of models says of the model beyond its name; empty if it says no more.
    Part of the key: behind one name and address another model may stand tomorrow."""
    fingerprint: str | None = None
    """`system_fingerprint` of the answer."""
    prompt: str
    """Name and version of the prompt file."""
    candidates: tuple[str, ...]
    """Ids, in the order the judge saw them."""
    outcome: Literal["judged", "unparsed", "refused", "truncated", "failed"]
    scores: RubricScores | None = None
    """Rubric: of the only candidate."""
    ranking: tuple[str, ...] | None = None
    """Comparison: ids from best to worst."""
    likelihood: LikelihoodScores | None = None
    """Of the only candidate, by a judge that is not asked but computed."""
    format: AnswerFormat | None = None
    """The form that the server took; None if it took none."""
    reply: str = ""
    """The answer or the error, word for word."""
    prompt_tokens: Count = 0
    completion_tokens: Count = 0
    request_id: str | None = None
    time: Moment | None = None
    """When the answer came."""


class Decision(msgspec.Struct, frozen=True, kw_only=True, tag_field="entry", tag="decision"):
    """What the poet did about one candidate. It stands alone: the source file may be gone."""

    action: Literal["accept", "edit", "reject", "skip", "rate"]
    """`edit` accepts `text` in place of what the model wrote; `rate` gives stars, no verdict."""
    candidate: Candidate
    """As the model wrote it."""
    text: str | None = None
    """As the poet changed it; None unless edited."""
    edit_distance: Count | None = None
    """Levenshtein distance between the two texts, in characters."""
    stars: Annotated[int, msgspec.Meta(ge=1, le=5)] | None = None
    blind: bool
    """Whether nothing in view told adapter, checkpoint, score or rank, then or before."""
    order: OrderName | None = None
    """The order the poems were shown in; None in journals written before it was recorded."""
    order_seed: int | None = None
    """Of that order."""
    repeat: bool = False
    """Whether the poem was shown again on purpose, to see if the poet decides alike."""
    time: Moment
    session: str = ""
    """Tells one session from another."""


class PairDecision(msgspec.Struct, frozen=True, kw_only=True, tag_field="entry", tag="pair"):
    """Which of two candidates for one theme the poet preferred."""

    left: Candidate
    right: Candidate
    verdict: Literal["left", "right", "tie", "both_bad"]
    blind: bool
    """Whether nothing in view told adapter, checkpoint, score or rank, then or before."""
    order: OrderName | None = None
    """The order that pairs were drawn from; None in journals written before it was recorded."""
    order_seed: int | None = None
    """Of that order."""
    time: Moment
    session: str = ""


class Undo(msgspec.Struct, frozen=True, kw_only=True, tag_field="entry", tag="undo"):
    """Takes one entry of the journal back. A redo is the undo of an undo."""

    undone: Position
    """The entry's place in the journal, counted from 1."""
    time: Moment
    session: str = ""


JournalEntry = Decision | PairDecision | Undo
"""One line of `decisions.jsonl`; the state is what is left after reading all of them."""


class TrainingExample(msgspec.Struct, frozen=True, kw_only=True):
    """A conversation to learn from, in mlx-lm's `messages` form."""

    messages: tuple[Message, ...]
    source: str = ""
    """Id of the poem or candidate."""
    origin: Origin = "poet"
    not_learned: tuple[int, ...] | msgspec.UnsetType = msgspec.UNSET
    """Indices of assistant's turns that are only read: OpenAI's `"weight": 0`."""


class PreferencePair(msgspec.Struct, frozen=True, kw_only=True):
    """Two answers to one theme, of which the first is to become likelier."""

    prompt: str
    """The theme, as the user's turn."""
    chosen: str
    rejected: str
    chosen_source: str = ""
    """Id of the poem or candidate."""
    rejected_source: str = ""
    reason: Literal["edited", "accepted", "compared"] | None = None
    """Better because: the poet rewrote it so, accepted it, or preferred it side by side."""


def _fill_id(record: msgspec.Struct, id_: str, *content: str | int | None) -> None:
    if not id_:
        msgspec.structs.force_setattr(record, "id", content_id(*content))
