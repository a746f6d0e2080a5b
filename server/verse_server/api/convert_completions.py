"""The older wire and the engine: what `/v1/completions` asks for and answers with. Pure.

Beside `convert`, which has what both wires share.
"""

import time
import uuid
from collections.abc import Iterable, Sequence
from typing import cast

import msgspec
from msgspec import UNSET, UnsetType

from verse_server.api.admission import Admission
from verse_server.api.convert import check_logit_bias, fingerprint, sampling_params, stop_strings
from verse_server.api.errors import RequestError
from verse_server.engine.errors import PromptTooLongError
from verse_server.engine.types import (
    BaseInfo,
    GenerationChunk,
    GenerationRequest,
    Target,
    TokenLogprob,
    TokenText,
)
from verse_server.protocol.completions import (
    MAX_PROMPTS,
    Completion,
    CompletionChoice,
    CompletionLogprobs,
    CompletionRequest,
)
from verse_server.protocol.usage import CompletionUsage

_DEFAULT_MAX_TOKENS = 16


def prompts_of(request: CompletionRequest, base: BaseInfo) -> list[str | tuple[int, ...]]:
    """The prompts, each a text or token ids.

    Raises:
        RequestError: the list is mixed or too long, or an id is no token.
    """
    prompt = request.prompt
    if isinstance(prompt, str):
        return [prompt]
    if all(isinstance(part, int) for part in prompt):
        return [_checked_ids(cast(list[int], prompt), base)]
    if len(prompt) > MAX_PROMPTS:
        raise RequestError(f"'prompt' holds at most {MAX_PROMPTS} prompts.", param="prompt")
    if all(isinstance(part, str) for part in prompt):
        return list(cast(list[str], prompt))
    if all(isinstance(part, list) for part in prompt):
        return [_checked_ids(cast(list[int], part), base) for part in prompt]
    raise RequestError("'prompt' mixes texts and token ids; send one kind.", param="prompt")


def _checked_ids(ids: Sequence[int], base: BaseInfo) -> tuple[int, ...]:
    wrong = next((i for i in ids if i >= base.vocab_size), None)
    if wrong is not None:
        raise RequestError(
            f"'prompt' holds token {wrong}; this model's tokens are 0 to {base.vocab_size - 1}.",
            param="prompt",
        )
    return tuple(ids)


def completion_rows(
    request: CompletionRequest,
    target: Target,
    prompts: Iterable[tuple[int, ...]],
    base: BaseInfo,
    admission: Admission,
) -> list[GenerationRequest]:
    """One request to the engine for each prompt.

    Raises:
        RequestError: a prompt is empty, or what is asked for does not go together.
        PromptTooLongError: a prompt leaves no room.
    """
    check_logit_bias(request, base)
    if request.max_tokens == 0 and not request.echo:
        raise RequestError(
            "A 'max_tokens' of 0 asks for no text at all; set it to 1 or more, or 'echo' to true.",
            param="max_tokens",
        )
    return [_row(request, target, prompt, base, admission) for prompt in prompts]


def _row(
    request: CompletionRequest,
    target: Target,
    prompt: tuple[int, ...],
    base: BaseInfo,
    admission: Admission,
) -> GenerationRequest:
    if not prompt:
        raise RequestError("A prompt is empty; send at least one token.", param="prompt")
    asked = _DEFAULT_MAX_TOKENS if request.max_tokens is None else request.max_tokens
    room = base.context_length - len(prompt)
    if room < min(asked, 1):
        raise PromptTooLongError(len(prompt), base.context_length, "prompt")
    return GenerationRequest(
        target=target,
        prompt=prompt,
        max_tokens=min(asked, room),
        sampling=sampling_params(request, base.sampling),
        stop=stop_strings(request),
        n=request.n or 1,
        num_top_logprobs=request.logprobs,
        score_prompt=bool(request.echo) and request.logprobs is not None,
        framed=False,
        streamed=bool(request.stream),
        client=admission.client,
        is_batch=admission.is_batch,
        max_seconds=admission.max_seconds,
    )


class CompletionHead(msgspec.Struct, frozen=True, kw_only=True):
    """What all parts of one answer share."""

    id: str
    created: int
    model: str
    system_fingerprint: str

    @classmethod
    def to(cls, target: Target, base: BaseInfo) -> "CompletionHead":
        """A fresh one."""
        return cls(
            id=f"cmpl-{uuid.uuid4().hex}",
            created=int(time.time()),
            model=target.model,
            system_fingerprint=fingerprint(target, base),
        )

    def completion(
        self,
        choices: Iterable[CompletionChoice],
        usage: CompletionUsage | UnsetType | None = UNSET,
    ) -> Completion:
        """The whole answer, or an event that adds to it."""
        return Completion(
            id=self.id,
            created=self.created,
            model=self.model,
            system_fingerprint=self.system_fingerprint,
            choices=tuple(choices),
            usage=usage,
        )


class ChoiceText:
    """One continuation as it grows; knows where its next token begins."""

    def __init__(self, index: int, echo: str, with_logprobs: bool) -> None:
        self._index = index
        self._echo = echo
        self._with_logprobs = with_logprobs
        self._bytes = b""
        """Of the tokens so far."""
        self._unseen: TokenText | None = None
        """The token that some tokenizers put before a text; it has no place in it."""

    def piece(self, chunks: Sequence[GenerationChunk]) -> CompletionChoice:
        """What these chunks add; the first piece begins with the echoed prompt."""
        echo, self._echo = self._echo, ""
        prompt = chunks[0].scored_prompt
        if prompt and not echo.encode().startswith(bytes(prompt[0].bytes)):
            self._unseen = prompt[0]
        entries = [*prompt, *(entry for chunk in chunks for entry in chunk.logprobs)]
        return CompletionChoice(
            text=echo + "".join(chunk.text for chunk in chunks),
            index=self._index,
            logprobs=self._logprobs(entries) if self._with_logprobs else None,
            finish_reason=chunks[-1].finish_reason,
        )

    def _logprobs(self, entries: Sequence[TokenText]) -> CompletionLogprobs:
        scored = [entry if isinstance(entry, TokenLogprob) else None for entry in entries]
        return CompletionLogprobs(
            tokens=tuple(_name(entry) for entry in entries),
            token_logprobs=tuple(entry and entry.logprob for entry in scored),
            top_logprobs=tuple(
                entry and {_name(top): top.logprob for top in (*entry.top, entry)}
                for entry in scored
            ),
            text_offset=tuple(self._offset(entry) for entry in entries),
        )

    def _offset(self, entry: TokenText) -> int:
        offset = len(self._bytes.decode("utf-8", "ignore"))
        if entry is not self._unseen:
            self._bytes += bytes(entry.bytes)
        return offset


def _name(token: TokenText) -> str:
    """Its text, or OpenAI's spelling of bytes that are no text, so that no two look the same."""
    if not token.bytes:  # one of the frame, which has no place in the text
        return token.token
    try:
        return bytes(token.bytes).decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in token.bytes)
