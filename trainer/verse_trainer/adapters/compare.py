"""The same themes, written by several adapters of a running server, side by side."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx
import msgspec

from verse_trainer.errors import TrainerError

DEFAULT_BASE_URL = "http://127.0.0.1:8000/v1"
_TIMEOUT = httpx.Timeout(300, connect=5)


class CompareError(TrainerError):
    """The server could not be asked."""


class Written(msgspec.Struct, frozen=True, kw_only=True):
    """Poems on one theme under one seed, one for each model in order."""

    theme: str
    seed: int
    poems: tuple[str, ...]


class _Message(msgspec.Struct):
    content: str | None


class _Choice(msgspec.Struct):
    message: _Message


class _Completion(msgspec.Struct):
    choices: list[_Choice]


class _Error(msgspec.Struct):
    message: str


class _ErrorBody(msgspec.Struct):
    error: _Error


class PoemServer:
    """An OpenAI-compatible server that is asked for one poem at a time."""

    def __init__(self, base_url: str | None, api_key: str | None) -> None:
        self.base_url = (base_url or os.environ.get("OPENAI_BASE_URL") or DEFAULT_BASE_URL).rstrip(
            "/"
        )
        key = api_key or os.environ.get("OPENAI_API_KEY")
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._client = httpx.Client(headers=headers, timeout=_TIMEOUT)

    def write(self, model: str, theme: str, seed: int, temperature: float | None) -> str:
        """One poem.

        Raises:
            CompareError: there is no answer, or it is no poem.
        """
        body = {
            "model": model,
            "messages": [{"role": "user", "content": theme}],
            "seed": seed,
            **({} if temperature is None else {"temperature": temperature}),
        }
        try:
            answer = self._client.post(f"{self.base_url}/chat/completions", json=body)
        except httpx.HTTPError as error:
            raise CompareError(
                f"No server answers at {self.base_url}; start one with `verse serve`, "
                "or name it with --base-url."
            ) from error
        if answer.status_code != 200:
            raise CompareError(f"{self.base_url} answered {answer.status_code}: {_reason(answer)}")
        try:
            completion = msgspec.json.decode(answer.content, type=_Completion)
            return completion.choices[0].message.content or ""
        except (msgspec.DecodeError, IndexError) as error:
            raise CompareError(f"{self.base_url} sent no chat completion.") from error

    def close(self) -> None:
        """Let go of the connections."""
        self._client.close()


def write_all(
    server: PoemServer,
    models: Sequence[str],
    themes: Sequence[str],
    *,
    n: int,
    seed: int,
    temperature: float | None,
) -> Iterator[Written]:
    """Poems, theme by theme; models share the seed, so that chance is the same for all."""
    for theme in themes:
        for number in range(seed, seed + n):
            poems = tuple(server.write(model, theme, number, temperature) for model in models)
            yield Written(theme=theme, seed=number, poems=poems)


def read_themes(given: str) -> list[str]:
    """Themes from a file, one a line, or else from the text itself, parted by commas.

    Raises:
        CompareError: there are none, or the file is no text.
    """
    path = Path(given)
    try:
        is_file = path.is_file()
        text = path.read_text("utf-8") if is_file else given.replace("，", ",")
    except OSError:  # too long for a name: it is a list
        is_file, text = False, given.replace("，", ",")
    except UnicodeDecodeError as error:
        raise CompareError(f"{path} is not UTF-8; save it as UTF-8.") from error
    themes = text.splitlines() if is_file else text.split(",")
    themes = [theme.strip() for theme in themes if theme.strip()]
    if not themes:
        raise CompareError(f"{given!r} holds no theme.")
    return themes


def as_markdown(models: Sequence[str], written: Sequence[Written]) -> str:
    """All poems as a document, line breaks kept."""
    parts = ["# " + " · ".join(models)]
    for entry in written:
        parts.append(f"## {entry.theme} ({entry.seed})")
        for model, poem in zip(models, entry.poems, strict=True):
            quoted = "\n".join(f"> {line}\\" if line else ">" for line in poem.splitlines())
            parts.append(f"**{model}**\n\n{quoted.removesuffix(chr(92))}")
    return "\n\n".join(parts) + "\n"


def _reason(answer: httpx.Response) -> str:
    try:
        return msgspec.json.decode(answer.content, type=_ErrorBody).error.message
    except (msgspec.DecodeError, UnicodeDecodeError):
        return answer.reason_phrase
