"""What can go wrong in the engine.

    EngineError
    ├── ModelNotFoundError        no such base, adapter or checkpoint
    ├── AdapterIncompatibleError  the folder is there, but cannot be served on this base
    ├── AdapterChangedError       its files are being replaced just now
    ├── InvalidRequestError       the request asks for something this model cannot do
    │   └── PromptTooLongError    the prompt leaves no room for an answer
    ├── QueueFullError            too many wait already
    ├── DeadlineExceededError     it took longer than it was given
    ├── SlowClientError           nobody read the answer for too long
    ├── EngineClosedError         draining or dead: no new work
    └── GenerationFailedError     the engine broke while it was writing, or the numbers overflow

The messages are written for the person who sent the request: one sentence that says what to do.
"""

from collections.abc import Sequence

from verse import UserError
from verse.terminal import are, counted

_MAX_NAME = 100


class EngineError(Exception):
    """Root of the tree; never raised itself."""


class ModelNotFoundError(EngineError):
    """No base, adapter or checkpoint has this name."""

    def __init__(self, name: str, nearest: Sequence[str] = (), reason: str = "") -> None:
        self.name = name
        self.nearest = tuple(nearest)
        shown = name if len(name) <= _MAX_NAME else f"{name[:_MAX_NAME]}…"
        parts = [
            f"The model {shown!r} does not exist.",
            reason,
            f"Nearest names: {', '.join(self.nearest)}." if self.nearest else "",
            "GET /v1/models lists all.",
        ]
        super().__init__(" ".join(part for part in parts if part))


class AdapterIncompatibleError(EngineError):
    """The adapter exists but cannot be served on this base; `reason` says why.

    `unmatched` are the modules that it names and the base does not have.
    """

    def __init__(self, name: str, reason: str, unmatched: Sequence[str] = ()) -> None:
        self.name = name
        self.reason = reason
        self.unmatched = tuple(unmatched)
        super().__init__(f"The adapter {name!r} cannot be served: {reason}")


class AdapterChangedError(EngineError):
    """The files were replaced between the request and its turn; resolve the name again."""

    def __init__(self, name: str) -> None:
        super().__init__(f"The files of the adapter {name!r} are being replaced; try again soon.")


class InvalidRequestError(EngineError):
    """The request cannot be done as asked; `param` names the offending field."""

    def __init__(self, message: str, param: str | None = None) -> None:
        self.param = param
        super().__init__(message)


class PromptTooLongError(InvalidRequestError):
    """The prompt alone fills the context of the base."""

    def __init__(
        self,
        num_prompt_tokens: int,
        context_length: int,
        param: str = "messages",
        *,
        is_exact: bool = True,
    ) -> None:
        count = f"{num_prompt_tokens}" if is_exact else f"at least {num_prompt_tokens}"
        super().__init__(
            # litellm, langchain and pydantic-ai each know this error by some of these words.
            f"This model's maximum context length is {context_length} tokens. However, your "
            f"{param} resulted in {count} tokens, which leaves no room for an answer: the prompt "
            f"is too long. Please reduce the length of the {param}.",
            param=param,
        )


class QueueFullError(EngineError):
    """Too many requests wait; `retry_after_seconds` is when some of them should be done."""

    def __init__(self, num_waiting: int, retry_after_seconds: int) -> None:
        self.retry_after_seconds = retry_after_seconds
        super().__init__(
            f"{counted(num_waiting, 'request')} {are(num_waiting)} waiting already; "
            f"try again in {counted(retry_after_seconds, 'second')}."
        )


class DeadlineExceededError(EngineError):
    """The poem was not finished in the time the request was given."""

    def __init__(self, seconds: float) -> None:
        super().__init__(
            f"The answer was not finished within {counted(seconds, 'second')}; ask for fewer "
            "tokens, or give it more time with the header x-verse-deadline-seconds."
        )


class SlowClientError(EngineError):
    """The client reads nothing while its answer is written."""

    def __init__(self, seconds: float) -> None:
        super().__init__(
            f"The answer was not read for {counted(seconds, 'second')} and was ended there; "
            'read faster, or ask for it whole with "stream": false.'
        )


class EngineClosedError(EngineError):
    """The engine is draining or has stopped."""


class GenerationFailedError(EngineError):
    """The engine broke, or it cannot write this answer: numbers overflow, a schema is too much."""


class StartupError(UserError):
    """The engine cannot start with this configuration: one sentence for the user, exit code 2."""
