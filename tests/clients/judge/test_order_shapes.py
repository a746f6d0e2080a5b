"""Orders as models really write them: each shape has its one right reading, or none."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.clients.judge.simulated import poems
from verse_clients.judge.prompts import make_question, read_prompt
from verse_clients.judge.replies import read_ranking

FIVE = make_question(read_prompt("ranking", "zh"), poems(5))
TWO = make_question(read_prompt("ranking", "zh"), poems(2))
SHOWN = FIVE.labels
ONE, *_, LAST = BEST = (SHOWN[3], SHOWN[0], SHOWN[4], SHOWN[2], SHOWN[1])
BACK = BEST[::-1]
A, B = TWO.labels
OBJECT = json.dumps({"reasoning": f"{SHOWN[0]} 比 {SHOWN[1]} 新。", "ranking": BEST})


def listed(shape: str, order: tuple[str, ...] = BEST) -> str:
    return "\n".join(shape.format(i=number, n=label) for number, label in enumerate(order, 1))


def order(text: str) -> tuple[str, ...] | None:
    found = read_ranking(text, FIVE)
    ids = dict(zip(FIVE.candidates, FIVE.labels, strict=True))
    return None if found is None else tuple(ids[id_] for id_ in found)


READ = {
    "object": OBJECT,
    "fence": f"```json\n{OBJECT}\n```\n以上。",
    "trailing comma": OBJECT[:-2] + ",]}",
    "quotes in the reasoning": OBJECT.replace("新", '"新"'),
    "words beside the labels": json.dumps({"ranking": [f"诗 {label}" for label in BEST]}),
    "numbers beside the labels": json.dumps({"ranking": listed("{i}. {n}").split("\n")}),
    "an inner object": json.dumps({"result": {"ranking": BEST}}),
    "the same twice": f"{OBJECT}\n{OBJECT}",
    "an object and the same in words": f"{' > '.join(BEST)}\n{OBJECT}",
    "a thought before": f"<think>{' > '.join(BACK)}</think>{OBJECT}",
    "a thought without its opening": f"{' > '.join(BACK)}\n</think>\n{OBJECT}",
    "a chain in its field": json.dumps({"ranking": " > ".join(BEST)}),
    "ranks and labels": json.dumps({
        "ranking": [{"rank": i, "label": label} for i, label in enumerate(BEST, 1)]
    }),
    "chain of poems": " > ".join(f"诗{label}" for label in BEST),
    "chain of poems in English": " > ".join(f"Poem {label}" for label in BEST),
    "list in keycaps": listed("{i}\ufe0f\u20e3 {n}"),
    "chain": " > ".join(BEST),
    "chain in full width": "＞".join(BEST),
    "chain of arrows": " -> ".join(BEST),
    "bold chain": "**" + "** > **".join(BEST) + "**",
    "announced chain": f"最终排名：{' > '.join(BEST)}。",
    "announced chain in English": f"Final ranking (best to worst): {' > '.join(BEST)}.",
    "announced commas": f"排序：{'、'.join(BEST)}",
    "announced array": f"ranking: {json.dumps(BEST)}",
    "reasons and a chain": f"{ONE} 的意象最好。{LAST} 太散。\n\n{' > '.join(BEST)}",
    "list": listed("{i}. {n}"),
    "list with reasons": listed("{i}. **{n}**：意象新鲜"),
    "list of ordinals": listed("第{i}名：{n}"),
    "list of Chinese ordinals": "\n".join(
        f"第{c}名：{n}" for c, n in zip("一二三四五", BEST, strict=True)
    ),
    "list of ranks": listed("Rank {i}: {n}"),
    "table": "| 名次 | 诗 |\n|---|---|\n" + listed("| {i} | {n} |"),
    "announced list in the order shown": "排名：\n" + listed("{i}. {n} 意象新", SHOWN),
}  # fmt: skip

UNPARSED = {
    "nothing": "",
    "a label missing": json.dumps({"ranking": BEST[:-1]}),
    "a label twice": json.dumps({"ranking": [*BEST[:-1], BEST[0]]}),
    "a label too many": json.dumps({"ranking": [*BEST, "A"]}),
    "a tie in an entry": json.dumps({"ranking": [f"{BEST[0]}={BEST[1]}", *BEST[2:]]}),
    "numbers": json.dumps({"ranking": [4, 1, 5, 3, 2]}),
    "ranks that count down": json.dumps({
        "ranking": [{"rank": 6 - i, "label": label} for i, label in enumerate(BEST, 1)]
    }),
    "a tie in a chain in its field": json.dumps({"ranking": " > ".join(BEST[:-1]) + f" = {LAST}"}),
    "an array in a sentence": f"代号是 {json.dumps(BEST)}，先读一遍。",
    "objects": json.dumps({"ranking": [{"label": label} for label in BEST]}),
    "places by label": json.dumps({"ranking": {label: i for i, label in enumerate(BEST)}}),
    "entries numbered backwards": json.dumps({
        "ranking": [f"{6 - i}. {n}" for i, n in enumerate(BEST, 1)]
    }),
    "two orders of one key": f'{{"ranking": {json.dumps(BEST)}, "ranking": {json.dumps(BACK)}}}',
    "two objects": f'{OBJECT}\n{json.dumps({"ranking": BACK})}',
    "an example": json.dumps({"example": {"ranking": BEST}}),
    "worst first by its key": json.dumps({"worst_to_best": BEST}),
    "half an object": OBJECT[:-9],
    "an object without its end": OBJECT[:-1],
    "an object and another order": f"{OBJECT}\n更正：{' > '.join(BACK)}",
    "an order and another object": f"{' > '.join(BACK)}\n{OBJECT}",
    "an object and another best": f"{OBJECT}\n但最好的是 {LAST}。",
    "an object of too few and a chain": f'{json.dumps({"ranking": BEST[:-1]})}\n{" > ".join(BEST)}',
    "a thought without an end": f"<think>{OBJECT}",
    "two chains": f"{' > '.join(BEST)}\n{' > '.join(BACK)}",
    "a chain too short": " > ".join(BEST[:-1]),
    "a chain too long": " > ".join([*BEST, BEST[0]]),
    "a chain with a stranger": " > ".join(["A", *BEST]),
    "a chain with a tie": " > ".join(BEST[:-1]) + f" = {LAST}",
    "a chain cut off": " > ".join(BEST) + " >",
    "a chain from worst to best": f"从差到好：{' > '.join(BEST)}",
    "a chain from worst to best in English": f"Ranking, worst to best: {' > '.join(BEST)}",
    "a chain upwards": " < ".join(BEST),
    "a chain that is denied": f"不是 {' > '.join(BEST)}",
    "a chain of one aspect": f"只看语言：{' > '.join(BEST)}",
    "a chain inside a sentence": f"有人会说 {' > '.join(BEST)}，我不同意。",
    "a chain and a pair against it": f"{' > '.join(BEST)}\n不过 {LAST} > {ONE}",
    "a chain and another best": f"{' > '.join(BEST)}\n最好的是 {LAST}",
    "the question again": f"要排的 5 首诗，代号是 {', '.join(SHOWN)}",
    "the task again": f"把 {', '.join(BEST)} 从最好排到最差",
    "commas alone": ", ".join(BEST),
    "remarks in the order shown": listed("{i}. {n}：意象平常", SHOWN),
    "a list that counts down": "\n".join(f"{6 - i}. {n}" for i, n in enumerate(BEST, 1)),
    "a list with a hole": listed("{i}. {n}").replace("3. ", "4. "),
    "a list with a tie": listed("{i}. {n}") + "\n前两首并列。",
    "a list too short": "\n".join(listed("{i}. {n}").split("\n")[:-1]),
    "two lists": listed("{i}. {n}") + "\n\n" + listed("{i}. {n}", BACK),
    "a list and another chain": listed("{i}. {n}") + "\n" + " > ".join(BACK),
    "the best alone": f"最好的是 {ONE}。",
    "a refusal": "我无法排出名次。",
    "a surrogate": "\ud800",
}  # fmt: skip


@pytest.mark.parametrize("shape", READ)
def test_a_clear_order_is_read_right(shape: str) -> None:
    expected = SHOWN if "order shown" in shape else BEST
    assert order(READ[shape]) == expected


@pytest.mark.parametrize("shape", UNPARSED)
def test_an_order_that_is_not_clear_is_not_read(shape: str) -> None:
    assert order(UNPARSED[shape]) is None


@pytest.mark.parametrize(
    ("text", "best"),
    [
        (f"{B} > {A}", B),
        (f"{A} > {B}\n{A} 更好。", A),
        (f"排名：{B}, {A}", B),
        (f"1. {B}\n2. {A}", B),
        (json.dumps({"ranking": [B, A]}), B),
        (f"意象上 {A} > {B}，但整体 {B} 更好。", None),
        (f"{A} > {B}\n但整体 {B} 更好。", None),
        (f"{A} > {B}\n{B} is better.", None),
        (f"{A} > {B}\n{B} > {A}", None),
        (f"{A} = {B}", None),
        (f"{A} >= {B}", None),
        (f"{A} 更好", None),
        (f"1. {A}：平常\n2. {B}：新鲜", None),
        (json.dumps({"ranking": [A]}), None),
        (json.dumps({"ranking": [A, A]}), None),
        (json.dumps({"ranking": [B, A]}) + f"\n最好的是 {A}", None),
    ],
)
def test_a_pair_has_one_verdict_or_none(text: str, best: str | None) -> None:
    found = read_ranking(text, TWO)
    ids = dict(zip(TWO.labels, TWO.candidates, strict=True))
    assert (found and found[0]) == (best and ids[best])


@given(
    st.permutations(SHOWN),
    st.lists(
        st.tuples(
            st.permutations(SHOWN), st.integers(1, 5), st.sampled_from([" > ", "、", ", ", " "])
        ),
        max_size=3,
    ),
    st.booleans(),
    st.sampled_from(["", "排名：", "代号是 ", "先看语言：", "我读到的次序：", "Ranking: "]),
)
def test_two_orders_are_one_or_none(
    right: list[str], beside: list[tuple[list[str], int, str]], is_object: bool, word: str
) -> None:
    """Whatever stands beside an order: it is read as it is, or not at all."""
    own = json.dumps({"ranking": right}) if is_object else " > ".join(right)
    others = [word + join.join(labels[:count]) for labels, count, join in beside]
    text = "\n".join([*others[:2], own, *others[2:]])
    assert order(text) in (None, tuple(right))


SHAPES = Path(__file__).with_name("order_shapes.jsonl")
LATER = [json.loads(line) for line in SHAPES.read_text("utf-8").splitlines()]
"""Written after the reader, to find what it reads wrong; `@1` is the best of five labels."""


@pytest.mark.parametrize("shape", LATER, ids=[shape["text"][:40] for shape in LATER])
def test_a_shape_nobody_thought_of_is_read_right_or_not_at_all(shape: dict[str, Any]) -> None:
    text = re.sub(r"@(\d)", lambda found: BEST[int(found[1]) - 1], shape["text"])
    found = order(text)
    assert found == BEST if shape.get("is_read") else found in (None, shape["is_order"] and BEST)
