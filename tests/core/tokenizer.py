"""The embedded base's tokenizer, and chat templates to put on it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, cast

from verse.prompt import Tokenizer

VERSE_TINY = Path(__file__).parents[2] / "models" / "verse-tiny"

# The parts of Qwen's own templates that matter here.
QWEN25_TEMPLATE = """\
{%- if messages[0]['role'] != 'system' %}
{{- '<|im_start|>system\\n' }}
{{- 'You are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\\n' }}
{%- endif %}
{%- for m in messages %}
{{- '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}
"""
QWEN3_TEMPLATE = """\
{%- for m in messages %}
{{- '<|im_start|>' + m['role'] + '\\n' }}
{%- if m['role'] == 'assistant' %}
{%- if loop.last %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}
{{- m['content'].split('</think>')[-1].lstrip('\\n') }}
{%- else %}
{{- m['content'] }}
{%- endif %}
{{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|im_start|>assistant\\n' }}
{%- if enable_thinking is defined and enable_thinking is false %}
{{- '<think>\\n\\n</think>\\n\\n' }}
{%- endif %}
{%- endif %}
"""
QWEN3_ADDED = ("<think>", "</think>")
TOOLS_TEMPLATE = """\
{%- if tools %}
{{- '<|im_start|>system\\n' }}
{%- if messages[0]['role'] == 'system' %}{{- messages[0]['content'] + '\\n' }}{%- endif %}
{{- 'Tools:' }}
{%- for tool in tools %}{{- '\\n' }}{{- tool | tojson }}{%- endfor %}
{{- '\\nCall one as <tool_call>\\n{"name": NAME, "arguments": OBJECT}\\n</tool_call>' }}
{{- '<|im_end|>\\n' }}
{%- endif %}
{%- for m in messages %}
{%- if m['role'] == 'tool' %}
{{- '<|im_start|>user\\n<tool_response>\\n' + m['content'] + '\\n</tool_response><|im_end|>\\n' }}
{%- elif m['tool_calls'] %}
{{- '<|im_start|>assistant' }}
{%- if m['content'] %}{{- '\\n' + m['content'] }}{%- endif %}
{%- for call in m['tool_calls'] %}
{{- '\\n<tool_call>\\n{"name": "' + call['function']['name'] + '", "arguments": ' }}
{{- call['function']['arguments'] | tojson }}
{{- '}\\n</tool_call>' }}
{%- endfor %}
{{- '<|im_end|>\\n' }}
{%- elif not (tools and loop.first and m['role'] == 'system') %}
{{- '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}
"""
"""Shows tools as Qwen's own does, in fewer words."""
TOOLS_ADDED = ("<tool_call>", "</tool_call>")


class HfTokenizer(Tokenizer, Protocol):
    """What the tests need of a tokenizer beyond what rendering needs."""

    chat_template: str | None

    def decode(self, token_ids: Sequence[int]) -> str:
        """Token ids to text, special tokens included."""
        ...

    def add_tokens(self, new_tokens: list[str]) -> int:
        """Add tokens behind the vocabulary."""
        ...


def make_tokenizer(template: str | None = None, added: Sequence[str] = ()) -> HfTokenizer:
    """A fresh one, with another chat template or more tokens if wanted."""
    from transformers import PreTrainedTokenizerFast

    load: Any = PreTrainedTokenizerFast.from_pretrained
    tokenizer = cast(HfTokenizer, load(VERSE_TINY))
    if template is not None:
        tokenizer.chat_template = template
    tokenizer.add_tokens(list(added))
    return tokenizer
