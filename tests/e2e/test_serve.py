"""`verse serve` as its users meet it: the real process, the real SDK, Chinese poems."""

import json
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.e2e.conftest import EXAMPLES, ROOT, VERSE, Serve, Served, copy_of_examples

RIVER: Any = [{"role": "user", "content": "河"}]
LONG: dict[str, Any] = {"model": "base", "messages": RIVER, "max_tokens": 250, "temperature": 0}
"""250 tokens on `endless_model`, whose end token could be drawn by chance, if hardly ever."""


def health(served: Served) -> dict[str, Any]:
    return httpx.get(served.base_url.removesuffix("/v1") + "/health").json()


def until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition never came true"
        time.sleep(0.02)


def is_chinese(text: str) -> bool:
    return any("\u4e00" <= character <= "\u9fff" for character in text)


def write(served: Served, model: str, **fields: Any) -> str:
    options: dict[str, Any] = {"messages": RIVER, "max_tokens": 60, "temperature": 0, **fields}
    completion = served.client.chat.completions.create(model=model, **options)
    return completion.choices[0].message.content or ""


def test_the_sdk_gets_a_chinese_poem_as_it_is_written(served: Served) -> None:
    stream = served.client.chat.completions.create(model="xuzhimo", messages=RIVER, stream=True)
    deltas = [chunk.choices[0].delta.content or "" for chunk in stream]
    assert len(deltas) > 5
    assert is_chinese("".join(deltas))
    assert "\N{REPLACEMENT CHARACTER}" not in "".join(deltas)


def test_streamed_and_whole_answers_have_the_same_text_and_usage(served: Served) -> None:
    create = served.client.chat.completions.create
    for model in ("base", "xuzhimo", "libai", "hushi@58"):
        whole = create(model=model, messages=RIVER, seed=7, max_tokens=50)
        text, usage, reason = "", None, None
        for chunk in create(
            model=model,
            messages=RIVER,
            seed=7,
            max_tokens=50,
            stream=True,
            stream_options={"include_usage": True},
        ):
            if chunk.choices:
                text += chunk.choices[0].delta.content or ""
                reason = chunk.choices[0].finish_reason or reason
            usage = chunk.usage or usage
        assert text == whole.choices[0].message.content
        assert usage is not None
        assert whole.usage is not None
        # The second one finds the prompt in the cache.
        assert usage.to_dict() | {"prompt_tokens_details": None} == whole.usage.to_dict() | {
            "prompt_tokens_details": None
        }
        assert reason == whole.choices[0].finish_reason


def test_seven_adapters_at_once_write_what_each_writes_alone(served: Served) -> None:
    names = ["base", *EXAMPLES]
    alone = [write(served, name) for name in names]
    assert len(set(alone)) == len(names)
    with ThreadPoolExecutor(16) as pool:
        together = list(pool.map(partial(write, served), names * 2))
    assert together == alone * 2


def test_answers_logprobs_and_a_shared_prompt_through_the_sdk(served: Served) -> None:
    create = served.client.chat.completions.create
    wanted: dict[str, Any] = {"model": "hushi", "messages": RIVER, "max_tokens": 12, "seed": 11}
    first = create(**wanted, n=3, logprobs=True, top_logprobs=2, logit_bias={"2": -100})
    again = create(**wanted, n=3, logit_bias={"2": -100})
    texts = [choice.message.content for choice in first.choices]
    assert texts == [choice.message.content for choice in again.choices]
    assert len(set(texts)) == 3
    for choice in first.choices:
        assert choice.finish_reason == "length"
        assert choice.logprobs is not None
        entries = choice.logprobs.content or []
        assert len(entries) == 12
        assert all(entry.logprob <= entry.top_logprobs[0].logprob + 1e-5 for entry in entries)
    assert first.usage is not None
    assert first.usage.completion_tokens == 36
    assert again.usage is not None
    assert again.usage.prompt_tokens_details is not None
    assert again.usage.prompt_tokens_details.cached_tokens == again.usage.prompt_tokens - 1


def test_models_are_listed_with_their_line_and_retrieved_with_a_report(served: Served) -> None:
    models = {model.id: model for model in served.client.models.list()}
    assert set(models) == {"verse-tiny", *EXAMPLES}
    xuzhimo: Any = served.client.models.retrieve("xuzhimo")
    assert (xuzhimo.parent, xuzhimo.root) == ("verse-tiny", "verse-tiny")
    assert [checkpoint["id"] for checkpoint in xuzhimo.checkpoints] == ["xuzhimo@64", "xuzhimo@112"]
    assert xuzhimo.report["matched"] == 42
    checkpoint: Any = served.client.models.retrieve("xuzhimo@last")
    assert (checkpoint.id, checkpoint.parent) == ("xuzhimo@112", "xuzhimo")


def test_the_sdk_raises_its_own_exceptions(served: Served) -> None:
    create = served.client.chat.completions.create
    with pytest.raises(openai.NotFoundError, match="xuzhimo") as missing:
        create(model="xuzhimoo", messages=RIVER)
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as unsupported:
        create(model="xuzhimo", messages=RIVER, n=17)
    assert unsupported.value.param == "n"
    with pytest.raises(openai.BadRequestError) as long:
        create(model="xuzhimo", messages=[{"role": "user", "content": "河" * 600}])
    assert long.value.code == "context_length_exceeded"


@pytest.mark.parametrize("name", ["../adapters/xuzhimo", "/etc", "..", "xuzhimo/", "link"])
def test_a_path_is_never_a_model(served: Served, tmp_path: Path, name: str) -> None:
    link = served.adapters / "link"
    if name == "link":
        shutil.copytree(served.adapters / "xuzhimo", tmp_path / "outside")
        link.symlink_to(tmp_path / "outside")
    try:
        with pytest.raises(openai.NotFoundError):
            write(served, name)
    finally:
        link.unlink(missing_ok=True)


def seconds_to_first_text(served: Served, name: str) -> float:
    """Publish a folder and ask for it at once: from its appearance to its first text."""
    staged = served.adapters.parent / "staged"
    shutil.copytree(served.adapters / "xuzhimo", staged)
    (staged / "prompt.json").write_text(json.dumps({"format": "chat", "system": "写一首诗"}))
    with httpx.Client(base_url=served.base_url, timeout=180) as http:
        http.get("/models")
        started = time.perf_counter()
        staged.rename(served.adapters / name)
        body = {"model": name, "messages": RIVER, "stream": True, "temperature": 0}
        with http.stream("POST", "/chat/completions", json=body) as answer:
            assert answer.status_code == 200
            next(line for line in answer.iter_lines() if "content" in line)
        return time.perf_counter() - started


def test_a_folder_that_has_just_appeared_is_served_until_it_goes(served: Served) -> None:
    seconds_to_first_text(served, "fresh")
    assert "fresh" in {model.id for model in served.client.models.list()}
    shutil.rmtree(served.adapters / "fresh")
    with pytest.raises(openai.NotFoundError):
        write(served, "fresh")


@pytest.mark.perf
def test_a_folder_that_has_just_appeared_is_served_within_a_second(served: Served) -> None:
    assert seconds_to_first_text(served, "quick") < 1
    shutil.rmtree(served.adapters / "quick")


def test_a_client_that_goes_away_frees_its_row(serve: Serve, endless_model: Path) -> None:
    served = serve("--model", str(endless_model))
    for stream in (True, False):
        body = {"stream": stream, "n": 2, **LONG, "max_tokens": 20_000}  # many minutes
        raw = json.dumps(body).encode()
        host, port = served.base_url.removeprefix("http://").removesuffix("/v1").split(":")
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(
                b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
                b"Content-Type: application/json\r\n"
                b"Content-Length: %d\r\n\r\n%b" % (len(raw), raw)
            )
            until(lambda: health(served)["running"] > 0)
        until(lambda: health(served)["running"] == 0)


def test_an_adapter_of_another_base_is_a_warning_at_start_and_a_409_on_request(
    serve: Serve, tmp_path: Path
) -> None:
    adapters = copy_of_examples(tmp_path / "adapters")
    config = adapters / "hushi" / "adapter_config.json"
    config.write_text(config.read_text().replace('"rank": 8', '"rank": 4'))
    (adapters / "libai" / "adapter_config.json").unlink()
    weights = adapters / "wangwei" / "adapters.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    served = serve(adapters=adapters)
    warnings = [line for line in served.output if line.startswith("warning:")]
    assert [name for name in EXAMPLES if any(f"'{name}'" in line for line in warnings)] == [
        "hushi",
        "libai",
        "wangwei",
    ]
    for name, reason in (("hushi", "rank"), ("libai", "missing"), ("wangwei", "copy it again")):
        with pytest.raises(openai.ConflictError, match=reason):
            write(served, name)
    assert is_chinese(write(served, "xuzhimo"))


def test_sigterm_lets_running_poems_finish_and_turns_new_requests_away(
    serve: Serve, endless_model: Path
) -> None:
    served = serve("--model", str(endless_model))
    # Long enough to be asked beside, and done within the ten seconds it gets, on a busy machine.
    wanted: dict[str, Any] = {**LONG, "max_tokens": 100}
    stream = served.client.chat.completions.create(stream=True, **wanted)
    next(stream)
    served.process.send_signal(signal.SIGTERM)
    until(lambda: health(served)["status"] == "draining")
    with pytest.raises(openai.InternalServerError) as refused:
        write(served, "hushi")
    assert refused.value.status_code == 503
    *_, last = stream
    assert last.choices[0].finish_reason == "length"
    assert served.process.wait(60) == 0


def test_an_api_key_is_asked_for_and_never_shown(serve: Serve) -> None:
    served = serve("--api-key", "open sesame")
    with pytest.raises(openai.AuthenticationError):
        write(served, "xuzhimo")
    client = served.client.with_options(api_key="open sesame")
    assert client.models.list().data
    assert health(served)["status"] == "ok"
    served.stop()
    assert "sesame" not in "".join(served.output)


def run_to_its_end(*options: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [VERSE, "serve", *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )


def assert_one_sentence(finished: "subprocess.CompletedProcess[str]", about: str) -> None:
    assert finished.returncode == 2
    lines = [line for line in finished.stderr.splitlines() if line.strip()]
    assert len(lines) == 1, finished.stderr
    assert about in lines[0]


def test_a_port_in_use_ends_the_command_with_one_sentence() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert_one_sentence(run_to_its_end("--port", port), port)


def test_a_missing_model_ends_the_command_with_one_sentence() -> None:
    finished = run_to_its_end("--model", "models/nowhere/at-all", "--port", "0")
    assert_one_sentence(finished, "models/nowhere/at-all")


def test_a_missing_adapters_folder_ends_the_command_with_one_sentence() -> None:
    finished = run_to_its_end("--adapters", "nowhere", "--port", "0")
    assert_one_sentence(finished, "nowhere")


def test_options_are_also_read_from_the_environment(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VERSE_NO_POEM_PROMPT", "1")
    monkeypatch.setenv("VERSE_API_KEY", "from the environment")
    served = serve()
    client = served.client.with_options(api_key="from the environment")
    assert getattr(client.models.retrieve("base"), "system", "absent") is None


def test_a_burst_of_32_connections_is_answered_in_full(served: Served) -> None:
    barrier = threading.Barrier(32)

    def ask(number: int) -> str:
        barrier.wait()
        return write(served, EXAMPLES[number % 7], max_tokens=8, temperature=0.8, seed=number)

    with ThreadPoolExecutor(32) as pool:
        assert len(list(pool.map(ask, range(32)))) == 32
