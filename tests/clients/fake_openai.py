"""A server that speaks OpenAI's API on loopback, counts what it is asked, and fails when told to.

    with FakeOpenAI() as server:
        server.fail(Failure(429, retry_after="1"), "close")
        ...
        assert server.num_calls == 3

Failures are used up one a call, in order; then `write` makes the answers.
"""

import json
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Literal, Self

from tests.clients.fake_batches import FakeBatches

Body = dict[str, Any]


@dataclass(frozen=True)
class Reply:
    """What is answered; text alone is the same as `Reply(text)`."""

    text: str
    finish_reason: str = "stop"
    refusal: str | None = None
    prompt_tokens: int = 7
    completion_tokens: int = 11


@dataclass(frozen=True)
class Failure:
    """An error answer; the body is OpenAI's envelope unless `raw` is given."""

    status: int
    message: str = "as the test wishes"
    code: str | None = None
    retry_after: str | None = None
    raw: bytes | None = None


@dataclass(frozen=True)
class Raw:
    """A 200 whose body is anything at all."""

    body: bytes
    content_type: str = "application/json"


Trouble = Failure | Raw | Reply | Literal["close", "hang"]
"""`close` drops the connection without an answer; `hang` holds it until the server stops."""


def poem(body: Body) -> str:
    """Two lines that follow from model, prompt and seed, in characters that vary."""
    asked = json.dumps([body["model"], body["messages"], body.get("seed")], sort_keys=True)
    numbers = sha256(asked.encode()).digest()
    characters = [chr(0x4E00 + 37 * number + place) for place, number in enumerate(numbers)]
    return "".join(characters[:12]) + "，\n" + "".join(characters[12:30]) + "。"


def model(name: str, *steps: int, parent: str | None = "verse-tiny", **more: Any) -> Body:
    """An entry of `/v1/models` as `verse serve` writes it."""
    listed = [{"id": f"{name}@{step}", "step": step, "bytes": 1} for step in steps]
    digest = sha256(name.encode()).hexdigest() if parent else None
    return {
        "id": name, "object": "model", "created": 0, "owned_by": "verse", "parent": parent,
        "root": "verse-tiny", "checkpoints": listed, "digest": digest, **more,
    }  # fmt: skip


@dataclass
class Script:
    """What the server has and does; a test may change any of it while the server runs."""

    write: Callable[[Body], str | Reply] = poem
    models: list[Body] = field(default_factory=lambda: [
        model("verse-tiny", parent=None), model("hushi", 80, 160), model("xuzhimo", 85),
    ])  # fmt: skip
    key: str | None = None
    """If set, other keys get a 401."""
    strict_models: bool = True
    """Whether a model that is not listed gets a 404."""
    context: int | None = None
    """If set, `/tokenize` answers, as our own server's and vLLM's does."""
    seconds: float = 0.0
    """How long an answer takes."""
    gate: threading.Event | None = None
    """If set, answers wait for it, all but the first `free_calls`."""
    free_calls: int = 0
    list_failures: list[Failure] = field(default_factory=list[Failure])
    """What the next looks at the models get, one each."""


class FakeOpenAI(ThreadingHTTPServer):
    """The server; `num_calls` and `asked` count chat completions, whatever became of them."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, port: int = 0, script: Script | None = None) -> None:
        """Listen on a port of 127.0.0.1; 0 picks a free one."""
        super().__init__(("127.0.0.1", port), _Handler)
        self.script = script or Script()
        self.asked: list[Body] = []
        self.headers: list[dict[str, str]] = []
        self.batches = FakeBatches(self._answer_of)
        self.answered = 0
        """Calls that got a whole poem."""
        self.most_at_once = 0
        self.lock = threading.Lock()
        self.stopping = threading.Event()
        self._running = 0
        self._troubles: deque[Trouble] = deque()
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01})

    def _answer_of(self, body: Body) -> Body:
        """A chat completion as a row of a batch gets it."""
        answer = self.script.write(body)
        return _completion(body, Reply(answer) if isinstance(answer, str) else answer)

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def num_calls(self) -> int:
        return len(self.asked)

    def fail(self, *troubles: Trouble) -> None:
        """Let the next calls go wrong, one each."""
        self._troubles.extend(troubles)

    def next_trouble(self) -> Trouble | None:
        with self.lock:
            return self._troubles.popleft() if self._troubles else None

    def begin(self, body: Body, headers: dict[str, str]) -> None:
        with self.lock:
            self.asked.append(body)
            self.headers.append(headers)
            self._running += 1
            self.most_at_once = max(self.most_at_once, self._running)

    def end(self, answered: bool) -> None:
        with self.lock:
            self._running -= 1
            self.answered += answered

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that was killed is no news."""

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Answer nothing more and give the port back; calling it twice does no harm."""
        self.stopping.set()
        if self._thread.is_alive():
            self.shutdown()
            self._thread.join()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    @property
    def fake(self) -> FakeOpenAI:
        assert isinstance(self.server, FakeOpenAI)
        return self.server

    def do_GET(self) -> None:
        if self._refused():
            return
        if self.fake.script.list_failures:
            self._error(self.fake.script.list_failures.pop(0))
            return
        if self.path.startswith(("/v1/batches", "/v1/files")):
            self._send_bytes(*self.fake.batches.get(self.path))
            return
        listed = self.fake.script.models
        if self.path == "/v1/models":
            self._send(200, {"object": "list", "data": listed})
            return
        found = self._find(self.path.removeprefix("/v1/models/").replace("%40", "@"))
        if found is None:
            self._error(Failure(404, f"The model {self.path} does not exist.", "model_not_found"))
            return
        self._send(200, found)

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path.startswith(("/v1/batches", "/v1/files")):
            self._send_bytes(*self.fake.batches.post(self.path, content))
            return
        body = json.loads(content)
        if self.path == "/tokenize" and self.fake.script.context is not None:
            self._tokenize(body, self.fake.script.context)
            return
        if not self.path.endswith("/chat/completions"):
            self._error(Failure(404, f"Nothing is at {self.path}.", "unknown_url"))
            return
        self.fake.begin(body, {name.lower(): value for name, value in self.headers.items()})
        answered = False
        try:
            answered = self._chat(body)
        finally:
            self.fake.end(answered)

    def _chat(self, body: Body) -> bool:
        trouble = self.fake.next_trouble()
        if trouble is not None and not isinstance(trouble, Reply):
            self._make(trouble)
            return False
        if self._refused():
            return False
        if self.fake.script.strict_models and self._find(body["model"]) is None:
            message = f"The model '{body['model']}' does not exist."
            self._error(Failure(404, message, "model_not_found"))
            return False
        time.sleep(self.fake.script.seconds)
        if not self._may_pass():
            return False
        answer = trouble or self.fake.script.write(body)
        reply = Reply(answer) if isinstance(answer, str) else answer
        self._send(200, _completion(body, reply))
        return True

    def _tokenize(self, body: Body, context: int) -> None:
        """A token a character; as our own server, none of what is too long."""
        tokens = [ord(char) for turn in body["messages"] for char in turn["content"]]
        if len(tokens) > context:
            self._error(Failure(400, "too long", "context_length_exceeded"))
        else:
            self._send(200, {"count": 1, "max_model_len": context, "tokens": tokens})

    def _may_pass(self) -> bool:
        """Wait at the gate; False if the server stops meanwhile."""
        script = self.fake.script
        with self.fake.lock:
            script.free_calls -= 1
            gate = script.gate  # a test that opens it takes it away first
            if gate is None or script.free_calls >= 0:
                return True
        while not gate.wait(0.01):
            if self.fake.stopping.is_set():
                return False
        return True

    def _make(self, trouble: Failure | Raw | Literal["close", "hang"]) -> None:
        if isinstance(trouble, Failure):
            self._error(trouble)
        elif isinstance(trouble, Raw):
            self._send_bytes(200, trouble.body, trouble.content_type)
        else:
            if trouble == "hang":
                self.fake.stopping.wait(60)
            self.connection.shutdown(socket.SHUT_RDWR)

    def _refused(self) -> bool:
        key = self.fake.script.key
        if key is None or self.headers["Authorization"] == f"Bearer {key}":
            return False
        self._error(Failure(401, "Incorrect API key.", "invalid_api_key"))
        return True

    def _find(self, name: str) -> Body | None:
        """An entry by its name, `base`, or a checkpoint's: a step, `best` or `last`."""
        if name == "base":
            name = self.fake.script.models[0]["id"]
        adapter, _, checkpoint = name.partition("@")
        for entry in self.fake.script.models:
            if entry["id"] == name:
                return entry
            steps = [listed["step"] for listed in entry["checkpoints"]]
            if entry["id"] == adapter and steps:
                step = max(steps) if checkpoint in ("best", "last") else checkpoint
                if str(step) in map(str, steps):
                    return model(f"{adapter}@{step}", parent=adapter)
        return None

    def _error(self, failure: Failure) -> None:
        envelope = {"error": {
            "message": failure.message, "type": "x", "param": None, "code": failure.code,
        }}  # fmt: skip
        content = json.dumps(envelope).encode() if failure.raw is None else failure.raw
        headers = {} if failure.retry_after is None else {"Retry-After": failure.retry_after}
        self._send_bytes(failure.status, content, headers=headers)

    def _send(self, status: int, value: object) -> None:
        self._send_bytes(status, json.dumps(value).encode())

    def _send_bytes(
        self,
        status: int,
        content: bytes,
        kind: str = "application/json",
        headers: dict[str, str] | None = None,
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("x-request-id", f"req_{self.fake.num_calls}")
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


def _completion(body: Body, reply: Reply) -> Body:
    message = {"role": "assistant", "content": reply.text, "refusal": reply.refusal}
    choice = {"index": 0, "finish_reason": reply.finish_reason, "message": message}
    total = reply.prompt_tokens + reply.completion_tokens
    return {
        "id": "chatcmpl-1", "object": "chat.completion", "created": 0, "model": body["model"],
        "system_fingerprint": f"fp-{body['model']}", "choices": [choice],
        "usage": {
            "prompt_tokens": reply.prompt_tokens, "completion_tokens": reply.completion_tokens,
            "total_tokens": total,
        },
    }  # fmt: skip
