"""`verse write`: one poem, as it comes, on the terminal.

A running server is asked if it has what is wanted; else one is started for this poem. The flags of
`mlx_lm.generate` that people know it by mean the same here.

Nothing heavy is imported before the command runs: `verse --help` loads this module.
"""

import sys
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from verse.folders import EMBEDDED_BASE, RULE
from verse.model_spelling import BASE
from verse.terminal import show, show_piece
from verse_clients.errors import InputError, NoCompletionError, ServerError, UnauthorisedError
from verse_clients.generate.cli import SamplingFlags
from verse_clients.options import OptionGroup, flag, grouped

if TYPE_CHECKING:
    from verse.prompt import Message
    from verse_clients.answers import AnswerPart, ServedModel
    from verse_clients.openai_client import Server

_CUT_OFF = "The poem was cut off; --max-tokens allows more."


class WriterFlags(OptionGroup):
    """Who writes, and where."""

    model: Annotated[
        str | None,
        flag(
            "An adapter, as in xuzhimo@64 or xuzhimo:0.6; or a base: a model folder or a Hugging "
            "Face id.",
            "--model",
            shown="the base",
        ),
    ] = None
    adapter_path: Annotated[
        str | None,
        flag(
            "An adapter's folder, or a checkpoint's file in one; --model is its base.", shown=False
        ),
    ] = None
    base_url: Annotated[
        str | None,
        flag(
            "The server's address.",
            envvar="OPENAI_BASE_URL",
            shown="the one running on this machine, else one started for this poem",
        ),
    ] = None
    api_key: Annotated[
        str | None, flag("Its API key, if it needs one.", envvar="OPENAI_API_KEY", shown=False)
    ] = None


app = typer.Typer(add_completion=False, pretty_exceptions_show_locals=False, rich_markup_mode=None)


@app.command(epilog=RULE)
@grouped
def write(
    writer: WriterFlags,
    sampling: SamplingFlags,
    theme: Annotated[
        list[str] | None, typer.Argument(metavar="THEME", help="What the poem is about.")
    ] = None,
    prompt: Annotated[
        str | None,
        typer.Option(
            "-p",
            "--prompt",
            show_default="the theme alone",
            help="What is asked, {theme} standing for the theme; or a whole prompt with "
            "<|im_start|>; - reads it from standard input.",
        ),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="The same seed gives the same poem.", show_default="drawn")
    ] = None,
) -> None:
    """Write one poem and print it as it comes, from a running server or from the base itself."""
    import msgspec

    about = " ".join(theme or ())
    asked = asked_for(about, sys.stdin.read() if prompt == "-" else prompt)
    with _server(wanted(writer.model, writer.adapter_path), writer) as (server, model):
        pieces = server.stream(model, asked, seed=seed, **msgspec.structs.asdict(sampling))
        _print(pieces, about, server.base_url)


class Wanted(NamedTuple):
    """Who is to write."""

    base: str | None = None
    """A folder or a Hugging Face id; None for whichever is served."""
    model: str = BASE
    """As a request names it."""
    folder: Path | None = None
    """The adapter's, where it was named by its place."""

    @property
    def serve_flags(self) -> tuple[str, ...]:
        """For a server of one's own that has it."""
        base = () if self.base is None else ("--model", self.base)
        return base if self.folder is None else (*base, "--adapters", str(self.folder.parent))


def wanted(model: str | None, adapter_path: str | None) -> Wanted:
    """Who is meant by `--model` and `--adapter-path`.

    Raises:
        InputError: there is no adapter at the path.
    """
    from verse.adapter_folder import folder_at, model_at

    if adapter_path is None and model is not None and folder_at(model) is not None:
        model, adapter_path = None, model
    if adapter_path is None:
        is_base = model is not None and _is_base(model)
        return Wanted(base=model) if is_base else Wanted(model=model or BASE)
    folder = folder_at(adapter_path)
    if folder is None:
        raise InputError(f"There is no adapter at {adapter_path}; name its folder.")
    return Wanted(base=model, model=model_at(adapter_path), folder=folder)


def asked_for(theme: str, prompt: str | None) -> "list[Message]":
    """The turns to send.

    Raises:
        InputError: nothing is asked for, or the prompt has no place for the theme.
    """
    from verse.prompt import THEME_SLOT
    from verse_clients.chat_prompts import is_chat_prompt, messages

    if prompt is None:
        if not theme:
            raise InputError("Name a theme: verse write 河.")
        return messages(None, theme)
    if THEME_SLOT in prompt and not theme:
        raise InputError("Name a theme for the prompt: verse write 河 --prompt ...")
    if THEME_SLOT not in prompt and theme:
        raise InputError(f"The prompt has no {THEME_SLOT} for {theme!r}; put it where it belongs.")
    if is_chat_prompt(prompt):
        return messages(prompt, theme)
    text = prompt.replace("\\n", "\n").replace("\\t", "\t")
    return messages(THEME_SLOT, text.replace(THEME_SLOT, theme))


def answers_only(pieces: Iterable[str]) -> Iterator[str]:
    """The pieces of a poem without the thought before it, and without blanks before and after."""
    from verse.thinking import split_thought

    sent, told = "", ""
    for piece in pieces:
        sent += piece
        answer, is_open = split_thought(sent)
        answer = answer.lstrip("\n ").rstrip()
        may_open = answer.startswith(("<", "[", "◁")) and "\n" not in answer
        if not is_open and not may_open and answer.startswith(told) and answer != told:
            yield answer[len(told) :]
            told = answer
    answer = split_thought(sent).answer.lstrip("\n ").rstrip()
    if answer.startswith(told):
        yield answer[len(told) :]


@contextmanager
def _server(want: Wanted, flags: WriterFlags) -> "Generator[tuple[Server, str]]":
    """Who can write it, and by which name it is asked."""
    from verse_clients.local_server import local_server
    from verse_clients.openai_client import Server

    server = Server(flags.base_url, flags.api_key)
    if flags.base_url is not None or _has(server, want):
        try:
            yield server, want.model
        finally:
            server.close()
        return
    server.close()
    if sys.stderr.isatty():
        show(f"Loading {want.base or EMBEDDED_BASE} ...", stderr=True)
    with local_server(*want.serve_flags) as base_url:
        server = Server(base_url, "unused")
        try:
            yield server, want.model
        finally:
            server.close()


def _has(server: "Server", want: Wanted) -> bool:
    """Whether the server that runs here can write what is wanted; no server can write nothing."""
    from verse_clients.errors import UnknownModelError

    try:
        bases = [model for model in server.served() if model.root == model.id]
        return bool(bases) and _fits(bases[0], want) and _same(server.model(want.model), want)
    except UnauthorisedError:
        raise
    except (UnknownModelError, ServerError):
        return False


def _fits(base: "ServedModel", want: Wanted) -> bool:
    return want.base is None or Path(want.base).name == Path(base.id).name


def _same(model: "ServedModel", want: Wanted) -> bool:
    """Whether it is the adapter at the place that was named, and not another of its name."""
    from verse.adapter_digest import digest_at

    if want.folder is None:
        return True
    _, _, step = want.model.partition("@")
    here = digest_at(want.folder, int(step) if step else None)
    return here is not None and model.digest == here


def _is_base(model: str) -> bool:
    return "/" in model or (Path(model) / "config.json").is_file()


def _print(pieces: "Iterable[AnswerPart]", theme: str, where: str) -> None:
    """On a terminal as it comes; elsewhere at its end, as `verse generate` would keep it."""
    from verse_clients.generate.cleaning import clean

    ends: list[str | None] = []

    def texts() -> Iterator[str]:
        for piece in pieces:
            ends.append(piece.finish_reason)
            yield piece.text

    if sys.stdout.isatty():
        is_written = _stream(answers_only(texts()))
    elif is_written := bool(poem := clean("".join(texts()), theme).text):
        show(poem)
    if not is_written:
        raise NoCompletionError(f"{where} wrote no poem; --max-tokens allows more.")
    if ends[-1] == "length":
        show(_CUT_OFF, stderr=True)


def _stream(texts: Iterable[str]) -> bool:
    """Print pieces as they come; returns whether there was one."""
    is_written = False
    try:
        for text in texts:
            show_piece(text)
            is_written = True
    finally:
        if is_written:
            show("")  # also after Ctrl-C, so that the prompt stands on a line of its own
    return is_written
