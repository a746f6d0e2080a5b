"""The older endpoint through the official SDK, on the real server."""

from typing import Any

import httpx
import pytest

from tests.e2e.conftest import Served


def test_several_prompts_write_what_each_writes_alone(served: Served) -> None:
    create = served.client.completions.create
    prompts = ["轻轻的我走了，", "大江东去", "床前明月光"]

    def alone(prompt: str) -> list[str]:
        answer = create(model="xuzhimo", prompt=prompt, seed=4, n=2, max_tokens=20)
        return [choice.text for choice in answer.choices]

    together = create(model="xuzhimo", prompt=prompts, seed=4, n=2, max_tokens=20)
    expected = [text for prompt in prompts for text in alone(prompt)]
    assert [choice.text for choice in together.choices] == expected
    assert any("\u4e00" <= c <= "\u9fff" for choice in together.choices for c in choice.text)
    assert together.usage is not None
    assert together.usage.completion_tokens <= 6 * 20


def test_a_frame_written_by_hand_is_the_chat(served: Served) -> None:
    theme = [{"role": "system", "content": "写诗"}, {"role": "user", "content": "河"}]
    body = {"model": "hushi", "messages": theme, "temperature": 0, "max_tokens": 30}
    chat = httpx.post(f"{served.base_url}/chat/completions", json=body, timeout=180).json()
    turns = "".join(f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in theme)
    framed = served.client.completions.create(
        model="hushi", prompt=f"{turns}<|im_start|>assistant\n", temperature=0, max_tokens=30
    )
    assert framed.choices[0].text == chat["choices"][0]["message"]["content"]
    assert framed.usage is not None
    assert framed.usage.prompt_tokens == chat["usage"]["prompt_tokens"]


def test_echo_logprobs_and_a_stream(served: Served) -> None:
    create = served.client.completions.create
    echoed = create(model="base", prompt="春眠不觉晓", echo=True, max_tokens=5, temperature=0)
    assert echoed.choices[0].text.startswith("春眠不觉晓")
    whole = create(model="base", prompt="春眠不觉晓", logprobs=3, max_tokens=8, temperature=0)
    logprobs = whole.choices[0].logprobs
    assert logprobs is not None
    assert len(logprobs.tokens or []) == len(logprobs.text_offset or []) == 8
    for token, tops in zip(logprobs.tokens or [], logprobs.top_logprobs or [], strict=True):
        assert max(tops, key=lambda name: tops[name]) == token
    stream = create(model="base", prompt="春眠不觉晓", max_tokens=8, temperature=0, stream=True)
    assert "".join(part.choices[0].text for part in stream) == whole.choices[0].text


def test_a_scored_text_has_the_numbers_it_was_written_with(served: Served) -> None:
    create = served.client.completions.create
    fields: dict[str, Any] = {"model": "xuzhimo:0.6", "temperature": 0, "logprobs": 2}
    written = create(prompt="轻轻的我走了，", max_tokens=12, **fields).choices[0]
    whole = f"轻轻的我走了，{written.text}"
    scored = create(prompt=whole, max_tokens=0, echo=True, **fields)
    (choice,) = scored.choices
    assert (choice.text, choice.finish_reason) == (whole, "length")
    assert scored.usage is not None
    assert scored.usage.completion_tokens == 0
    assert written.logprobs is not None
    assert choice.logprobs is not None
    numbers = choice.logprobs.token_logprobs or []
    tops, offsets = choice.logprobs.top_logprobs or [], choice.logprobs.text_offset or []
    assert (numbers[0], tops[0], offsets[0]) == (None, None, 0)
    assert len(numbers) == len(tops) == len(offsets) == scored.usage.prompt_tokens
    begin = offsets.index(len("轻轻的我走了，"))
    assert numbers[begin:] == pytest.approx(written.logprobs.token_logprobs, abs=1e-3)
    assert all(max(top.values()) == n for top, n in zip(tops[begin:], numbers[begin:], strict=True))


def test_an_evaluation_harness_finds_one_entry_more_than_the_prompt_has(served: Served) -> None:
    """lm-eval cuts the last entry off: it must be the drawn token's, an end token's too."""
    prompts = [[5, 900, 77, 41], [300, 301]]
    for bias in ({}, {"2": 100}):
        answer = served.client.completions.create(
            model="base",
            prompt=prompts,
            echo=True,
            logprobs=1,
            max_tokens=1,
            temperature=0,
            logit_bias=bias,
        )
        columns = [choice.logprobs.token_logprobs for choice in answer.choices if choice.logprobs]
        assert [len(column or []) for column in columns] == [5, 3]
        if bias:
            assert [choice.finish_reason for choice in answer.choices] == ["stop", "stop"]
