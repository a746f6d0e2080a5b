"""From messages and texts to token ids, at a cost that is bounded before any text is tokenized.

A text that cannot fit the context is refused by its length (`token_bounds`). What an adapter's
recorded system message becomes is remembered. Work that nobody waits for any more ends at the next
piece. May be called from any thread, and lets Python go on meanwhile: an event loop beside it does
not stand still. No mlx here.
"""

import threading
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import CancelledError
from functools import cached_property
from typing import Any, cast

import tokenizers
from msgspec.structs import replace
from transformers import PreTrainedTokenizerFast

from verse.prompt import (
    OPEN_ANSWER,
    FrameOptions,
    Message,
    PromptError,
    PromptFormat,
    Rendered,
    Tokenizer,
    Tool,
    render,
)
from verse.thinking import split_thought
from verse_server.engine.errors import InvalidRequestError, PromptTooLongError
from verse_server.engine.interface import still_wanted
from verse_server.engine.token_bounds import TokenBound, make_token_bound

_MAX_REMEMBERED = 64
_MAX_CONTEXTS = 16
"""So long may a text be that is only tokenized."""
_MAX_FRAME_CHARS = 200
"""A piece with so much more than the system message in it is a request's own."""


class PromptEncoder:
    """One tokenizer, and the context that its texts must fit."""

    def __init__(self, hf_tokenizer: Tokenizer, context_length: int) -> None:
        self.hf_tokenizer = hf_tokenizer
        self.context_length = context_length
        self.remembered = _RememberedPieces()
        self._lock = threading.Lock()
        self._rust = _rust_tokenizer(hf_tokenizer)
        self._drops_thoughts = _drops_thoughts(hf_tokenizer)

    @cached_property
    def bound(self) -> TokenBound | None:
        """Made for the first text that has as many characters as the context has tokens."""
        return None if self._rust is None else make_token_bound(self._rust)

    def encode(
        self,
        messages: Sequence[Message],
        prompt_format: PromptFormat,
        tools: Sequence[Tool] | None = None,
        options: FrameOptions = OPEN_ANSWER,
    ) -> tuple[int, ...]:
        """Render messages in a format, led by its system message if they have none.

        Raises:
            PromptTooLongError: no room is left for one token.
            InvalidRequestError: the format cannot hold these messages.
            CancelledError: nobody wants it any more.
        """
        limit = _Limit(self, self.context_length, "messages")
        limit.check("")
        pieces = _PieceTokenizer(self, limit, prompt_format.system)
        try:
            rendered: Rendered = render(
                self._as_shown(prompt_format.with_system(messages)),
                prompt_format,
                pieces,
                options,
                tools=tools,
            )
        except PromptError as error:
            raise InvalidRequestError(str(error), param="messages") from error
        if len(rendered.token_ids) >= self.context_length:
            raise PromptTooLongError(len(rendered.token_ids), self.context_length)
        return rendered.token_ids

    def encode_text(self, text: str, *, add_special_tokens: bool = True) -> tuple[int, ...]:
        """A text as it is, control tokens included, behind what the tokenizer begins texts with.

        Raises:
            PromptTooLongError: it is longer than the context.
            CancelledError: nobody wants it any more.
        """
        _Limit(self, self.context_length + 1, "prompt").check(text)
        return tuple(self.tokenize(text, add_special_tokens=add_special_tokens))

    def encode_any(self, text: str, *, add_special_tokens: bool) -> tuple[int, ...]:
        """As `encode_text`, but the text may be several contexts long: harnesses cut it themselves.

        Raises:
            InvalidRequestError: it is longer than that.
            CancelledError: nobody wants it any more.
        """
        most = _MAX_CONTEXTS * self.context_length
        try:
            _Limit(self, most + 1, "prompt").check(text)
        except PromptTooLongError as error:
            raise InvalidRequestError(
                f"The text has more than {most} tokens, which is {_MAX_CONTEXTS} times this "
                "model's context; send it in parts.",
                param="prompt",
            ) from error
        return tuple(self.tokenize(text, add_special_tokens=add_special_tokens))

    def _as_shown(self, messages: Sequence[Message]) -> Sequence[Message]:
        """Without what earlier answers were thought over, where the template would leave it out.

        It would not find it: what looks like a special token in a message is kept from being one.
        """
        if not self._drops_thoughts:
            return messages
        asked = [number for number, message in enumerate(messages) if message.role == "user"]
        return [
            replace(message, content=split_thought(message.content).answer)
            if message.role == "assistant" and number < max(asked, default=0)
            else message
            for number, message in enumerate(messages)
        ]

    def tokenize(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """What the tokenizer makes of a text, however long."""
        if self._rust is None:
            with self._lock:
                return self.hf_tokenizer.encode(text, add_special_tokens=add_special_tokens)
        # Of all its ways to encode, the only one that holds neither the GIL nor a lock.
        batch = self._rust.encode_batch_fast([text], add_special_tokens=add_special_tokens)
        return batch[0].ids


class _Limit:
    """Refuses a text, given in pieces, when it can no longer have fewer than so many tokens."""

    def __init__(self, encoder: PromptEncoder, num_tokens: int, param: str) -> None:
        self._encoder = encoder
        self._num_tokens = num_tokens
        self._num_read = 0
        self._param = param

    def check(self, text: str) -> None:
        if not still_wanted.get()():
            raise CancelledError
        left = self._num_tokens - self._num_read
        if len(text) < left or (bound := self._encoder.bound) is None:
            return  # a token may be a character long, so this much may fit
        at_least = self._num_read + bound.at_least(text, left)
        if at_least >= self._num_tokens:
            context = self._num_tokens - (self._param == "prompt")
            raise PromptTooLongError(at_least, context, self._param, is_exact=False)

    def count(self, num_tokens: int) -> None:
        self._num_read += num_tokens


class _PieceTokenizer:
    """The tokenizer that rendering one prompt sees."""

    def __init__(self, encoder: PromptEncoder, limit: _Limit, own_system: str | None) -> None:
        self._encoder = encoder
        self._limit = limit
        self._own_system = own_system

    @property
    def chat_template(self) -> Any:
        """What rendering looks at to say that there is none."""
        return getattr(self._encoder.hf_tokenizer, "chat_template", True)

    def get_added_vocab(self) -> dict[str, int]:
        return self._encoder.hf_tokenizer.get_added_vocab()

    def apply_chat_template(self, conversation: list[dict[str, Any]], **kwargs: Any) -> Any:
        return self._encoder.hf_tokenizer.apply_chat_template(conversation, **kwargs)

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        remembered = self._encoder.remembered.get(text)
        if remembered is not None:
            self._limit.count(len(remembered))
            return list(remembered)
        self._limit.check(text)
        ids = self._encoder.tokenize(text, add_special_tokens=add_special_tokens)
        self._limit.count(len(ids))
        if self._is_own(text):
            self._encoder.remembered.put(text, ids)
        return ids

    def _is_own(self, text: str) -> bool:
        system = self._own_system
        return bool(system) and len(text) <= len(system) + _MAX_FRAME_CHARS and system in text


class _RememberedPieces:
    """Token ids of pieces that every request to an adapter has: the ones asked for last."""

    def __init__(self) -> None:
        self._pieces: OrderedDict[str, tuple[int, ...]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, text: str) -> tuple[int, ...] | None:
        with self._lock:
            if text in self._pieces:
                self._pieces.move_to_end(text)
            return self._pieces.get(text)

    def put(self, text: str, ids: Sequence[int]) -> None:
        with self._lock:
            self._pieces[text] = tuple(ids)
            while len(self._pieces) > _MAX_REMEMBERED:
                self._pieces.popitem(last=False)


def _drops_thoughts(hf_tokenizer: Tokenizer) -> bool:
    """Whether a chat template, as those of models that think, leaves out thoughts of earlier turns.

    Found by trying.
    """
    contents = ("a", "<think>\nprobe_thought\n</think>\n\nb", "c")
    roles = ("user", "assistant", "user")
    conversation = [{"role": r, "content": c} for r, c in zip(roles, contents, strict=True)]
    try:
        text = hf_tokenizer.apply_chat_template(
            conversation, tokenize=False, add_generation_prompt=True
        )
    except Exception:  # noqa: BLE001  jinja's own errors, and ValueError for a missing template
        return False
    return "probe_thought" not in text


def _rust_tokenizer(hf_tokenizer: Tokenizer) -> tokenizers.Tokenizer | None:
    """What does the work below a tokenizer, if it does all of it and alone."""
    kind = cast(Any, type(hf_tokenizer))
    fast = cast(Any, PreTrainedTokenizerFast)
    if not issubclass(kind, fast):
        return None
    if kind.encode is not fast.encode or kind._encode_plus is not fast._encode_plus:
        return None
    # Encoding once settles what the library sets for each text: no truncation, no padding.
    hf_tokenizer.encode("a", add_special_tokens=False)
    return cast(Any, hf_tokenizer).backend_tokenizer
