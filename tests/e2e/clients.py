"""The clients of other people that the network suite installs and runs, and what each is asked for.

docs/clients.md shows this table: `python -m tests.e2e.clients` writes it there.
"""

import re
from typing import NamedTuple

from tests.e2e.conftest import ROOT

GUIDE = ROOT / "docs" / "clients.md"


class Client(NamedTuple):
    """One client, of one version."""

    name: str
    requirements: tuple[str, ...]
    """Pinned, as pip or npm takes them; the client itself comes first."""
    checks: str
    """The file of real_clients/ that runs where they are installed."""
    calls: str
    """What the checks do, for the guide."""

    @property
    def version(self) -> str:
        """The client's own."""
        return re.split(r"==|(?<!^)@", self.requirements[0])[-1]

    @property
    def is_node(self) -> bool:
        """Whether npm installs it."""
        return self.checks.endswith(".mjs")


PYTHON_CLIENTS = (
    Client(
        "openai for Python",
        ("openai==3.57.0",),
        "openai_checks.py",
        "async and raw calls, streams, `parse`, tools and their results, an abandoned stream",
    ),
    Client(
        "openai for Python, responses",
        ("openai==3.57.0",),
        "responses_checks.py",
        "`responses.create`, `stream`, `parse`, tools, stored responses and their items, batches",
    ),
    Client(
        "openai-agents",
        ("openai-agents==0.24.0",),
        "openai_agents_checks.py",
        "its default class of model: runs, streams, output types, functions, sessions",
    ),
    Client("openai for Python 2", ("openai==2.54.0",), "openai_checks.py", "the same"),
    Client(
        "langchain-openai",
        ("langchain-openai==1.7.4",),
        "langchain_checks.py",
        "`invoke`, `stream`, `batch`, chains, `with_structured_output` by `json_schema` and by "
        "`function_calling`, `bind_tools`, the older `OpenAI`",
    ),
    # Releases of litellm have been compromised more than once: raise these by hand.
    Client(
        "litellm",
        ("litellm==1.110.2",),
        "litellm_checks.py",
        "`completion`, `acompletion`, streams, `text_completion`, schemas, its own errors",
    ),
    Client("litellm, the line before", ("litellm==1.109.3",), "litellm_checks.py", "the same"),
    Client(
        "litellm's proxy",
        ("litellm[proxy]==1.108.7",),
        "litellm_proxy_checks.py",
        "poems, streams, a schema, a tool and errors through the proxy",
    ),
    Client(
        "llm",
        ("llm==0.36",),
        "llm_checks.py",
        "`llm openai endpoint`, logs, conversations, `--schema`, a tool, completions",
    ),
    Client(
        "instructor",
        ("instructor==1.17.0",),
        "instructor_checks.py",
        "`TOOLS` (its default), `TOOLS_STRICT`, `JSON_SCHEMA`, partial objects, lists, retries",
    ),
    Client(
        "pydantic-ai",
        ("pydantic-ai-slim[openai]==2.68.0",),
        "pydantic_ai_checks.py",
        "the default output type, several, `NativeOutput`, streams, retries, function tools",
    ),
    Client(
        "smolagents",
        ("smolagents[openai]==1.26.0",),
        "smolagents_checks.py",
        "`ToolCallingAgent`, whole and streamed",
    ),
    Client(
        "dspy",
        ("dspy==3.4.1",),
        "dspy_checks.py",
        "`LM`, `Predict` with `JSONAdapter`, its own errors",
    ),
    Client(
        "inspect-ai",
        ("inspect-ai==0.3.285", "openai==3.57.0"),
        "inspect_checks.py",
        "an evaluation with log-probabilities, a response schema, an agent with tools",
    ),
    Client(
        "lm-eval",
        ("lm-eval[api]==0.4.13", "transformers==5.24.0"),
        "lm_eval_checks.py",
        "`local-completions` with `tokenizer_backend` `huggingface` and `remote`, "
        "`local-chat-completions`",
    ),
    Client(
        "guidellm",
        ("guidellm==0.8.1",),
        "guidellm_checks.py",
        "a benchmark of chat and of completions whose report shows tokens (it installs torch)",
    ),
    Client(
        "Open WebUI",
        ("httpx==0.28.1",),
        "open_webui_checks.py",
        "not installed: its two calls, the list of models and a chat, are replayed with httpx",
    ),
)
NODE_CLIENTS = (
    Client(
        "openai for Node",
        ("openai@7.59.0",),
        "openai_node_checks.mjs",
        "`create`, streams, `parse`, tools, errors, the same of `responses`, batches",
    ),
    Client(
        "Vercel's AI SDK",
        ("ai@6.0.326", "@ai-sdk/openai-compatible@2.0.92", "zod@4.6.7"),
        "ai_sdk_checks.mjs",
        "`generateText`, `streamText`, `generateObject`, `streamObject`, tools and their results",
    ),
    Client(
        "Vercel's AI SDK, OpenAI's provider",
        ("ai@6.0.326", "@ai-sdk/openai@3.0.141", "zod@4.6.7"),
        "ai_sdk_openai_checks.mjs",
        "the same through `/v1/responses`, with stored items and without",
    ),
    Client(
        "promptfoo",
        ("promptfoo@0.123.1", "@libsql/linux-x64-gnu@0.5.29"),
        "promptfoo_checks.mjs",
        "`eval` of a poem, of a schema and of a tool, with assertions",
    ),
)


def table() -> str:
    """As Markdown."""
    lines = ["| client | version | what is called |", "|---|---|---|"]
    for client in (*PYTHON_CLIENTS, *NODE_CLIENTS):
        version = "-" if client.name == "Open WebUI" else client.version
        lines.append(f"| {client.name} | {version} | {client.calls} |")
    return "\n".join(lines)


def written(text: str) -> str:
    """The guide with the table that belongs into it."""
    begin, end = "<!-- clients -->\n", "\n<!-- end -->"
    head, _, rest = text.partition(begin)
    _, _, tail = rest.partition(end)
    return f"{head}{begin}{table()}{end}{tail}"


if __name__ == "__main__":
    GUIDE.write_text(written(GUIDE.read_text("utf-8")), "utf-8")
