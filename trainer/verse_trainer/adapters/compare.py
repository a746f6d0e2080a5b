"""Poems of several models on the same themes, asked of a running server.

The trainer speaks HTTP itself: the OpenAI SDK belongs to the clients. All poems of a theme have one
seed, so what differs between columns is the model.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NoReturn

import httpx
import msgspec

from verse_trainer.errors import AnswerError

NUM_CONNECTIONS = 8
_CONNECT_SECONDS = 5.0
_READ_SECONDS = 600.0
"""A large model on a busy machine takes its time."""


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked for every cell of the comparison."""

    models: tuple[str, ...]
    """In any spelling the server knows: `xuzhimo@85`, `xuzhimo:0.6`, a blend."""
    themes: tuple[str, ...]
    n: int = 1
    seed: int = 0
    """Of the first theme; the next one has the next number."""
    temperature: float | None = None
    """None: the server's own default."""
    max_tokens: int | None = None


class Poem(msgspec.Struct, frozen=True):
    """One answer."""

    text: str
    is_cut_off: bool
    """It ended because it had reached the number of tokens it may have."""


class Row(msgspec.Struct, frozen=True):
    """All answers to one theme, model by model."""

    theme: str
    seed: int
    columns: tuple[tuple[Poem, ...], ...]


class _Message(msgspec.Struct, frozen=True):
    content: str


class _Choice(msgspec.Struct, frozen=True):
    message: _Message
    finish_reason: str | None = None


class _Completion(msgspec.Struct, frozen=True):
    choices: list[_Choice]


class _Error(msgspec.Struct, frozen=True):
    message: str


class _Refusal(msgspec.Struct, frozen=True):
    error: _Error


def read_themes(text: str) -> tuple[str, ...]:
    """Themes from a file, one a line, or from the text itself, with commas between them.

    Raises:
        AnswerError: there is none.
    """
    path = Path(text)
    themes = path.read_text("utf-8-sig").splitlines() if _is_file(path) else _split(text)
    found = tuple(dict.fromkeys(theme.strip() for theme in themes if theme.strip()))
    if not found:
        raise AnswerError(f"There is no theme in {text!r}; write --themes 河,母亲 or name a file.")
    return found


def ask(
    client: httpx.Client, question: Question, on_answer: Callable[[], None] = lambda: None
) -> list[Row]:
    """Ask for everything, a few at a time, so that the server can batch.

    Args:
        client: With the server's address and the key, as `make_client` makes it.
        question: What to ask.
        on_answer: Called after each answer, from whatever thread got it.

    Raises:
        AnswerError: the server is down, wants a key, or refused one of the questions.
    """

    def answer(cell: tuple[str, str, int]) -> tuple[Poem, ...]:
        poems = _ask_one(client, question, *cell)
        on_answer()
        return poems

    cells = [
        (model, theme, question.seed + place)
        for place, theme in enumerate(question.themes)
        for model in question.models
    ]
    with ThreadPoolExecutor(NUM_CONNECTIONS) as pool:
        try:
            answers = list(pool.map(answer, cells))
        except BaseException:  # Ctrl-C too: what has not been asked yet need not be
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return list(_rows(question, answers))


def make_client(base_url: str, api_key: str | None) -> httpx.Client:
    """A client for a server, with its key if there is one.

    Raises:
        AnswerError: the address is none.
    """
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    timeout = httpx.Timeout(_READ_SECONDS, connect=_CONNECT_SECONDS)
    try:
        client = httpx.Client(base_url=base_url, headers=headers, timeout=timeout)
    except (httpx.InvalidURL, UnicodeEncodeError) as error:
        raise AnswerError(f"{base_url} or its key cannot be used: {error}") from error
    if client.base_url.scheme not in ("http", "https"):
        raise AnswerError(f"{base_url!r} is no address; write http://127.0.0.1:8000/v1.")
    return client


def _rows(question: Question, answers: Sequence[tuple[Poem, ...]]) -> Iterator[Row]:
    width = len(question.models)
    for place, theme in enumerate(question.themes):
        columns = tuple(answers[place * width : (place + 1) * width])
        yield Row(theme, question.seed + place, columns)


def _ask_one(
    client: httpx.Client, question: Question, model: str, theme: str, seed: int
) -> tuple[Poem, ...]:
    options = {"temperature": question.temperature, "max_tokens": question.max_tokens}
    body = {
        "model": model,
        "messages": [{"role": "user", "content": theme}],
        "n": question.n,
        "seed": seed,
        **{name: value for name, value in options.items() if value is not None},
    }
    try:
        response = client.post("chat/completions", json=body)
    except httpx.TimeoutException as error:
        raise AnswerError(f"The server at {client.base_url} did not answer in time.") from error
    except httpx.HTTPError as error:
        raise AnswerError(
            f"No server answers at {client.base_url} ({error}); start one with `verse serve`, or "
            "say where it is with --base-url."
        ) from error
    if response.is_error:
        _refuse(client, model, response)
    try:
        choices = msgspec.json.decode(response.content, type=_Completion).choices
    except ValueError as error:
        raise AnswerError(f"What {client.base_url} answers is no chat completion.") from error
    return tuple(Poem(c.message.content.strip(), c.finish_reason == "length") for c in choices)


def _refuse(client: httpx.Client, model: str, response: httpx.Response) -> NoReturn:
    if response.status_code in (401, 403):
        raise AnswerError(
            f"The server at {client.base_url} wants another key; give it with --api-key or in "
            "OPENAI_API_KEY."
        )
    try:
        reason = msgspec.json.decode(response.content, type=_Refusal).error.message
    except ValueError:
        reason = f"it answers with status {response.status_code}."
    hint = "" if client.base_url.path.endswith("/v1/") else " Addresses usually end in /v1."
    raise AnswerError(f"The server at {client.base_url} gave no poem of {model!r}: {reason}{hint}")


def _split(text: str) -> list[str]:
    return text.replace("，", ",").split(",")


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a list of themes can be longer than a name may be
        return False
