"""The older endpoint through the official SDK, on the real server."""

import httpx

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
    chat = httpx.post(f"{served.base_url}/chat/completions", json=body, timeout=30).json()
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
