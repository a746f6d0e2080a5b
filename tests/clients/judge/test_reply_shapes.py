"""What models really write: each shape has its one right reading, or none.

A shape that is not read costs a question; one that is read wrong puts a bad poem first.
"""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from verse_clients.judge.replies import read_scores

NAMES = ("theme_adherence", "poetic_quality", "fluency", "emotional_resonance")
CHINESE = ("切题", "诗意与创造", "流畅连贯", "情感共鸣")
ENGLISH = ("Theme adherence", "Poetic quality", "Fluency", "Emotional resonance")
RIGHT = (4, 3, 5, 2)
OBJECT = json.dumps({"reasoning": "第3行有2处新意。", **dict(zip(NAMES, RIGHT, strict=True))})
BARE = json.dumps(dict(zip(NAMES, RIGHT, strict=True)))
HIGH = json.dumps(dict.fromkeys(NAMES, 5))


def each(shape: str, names: tuple[str, ...] = CHINESE, join: str = "\n") -> str:
    """The four criteria in one shape: `{n}` the name, `{s}` its score, `{i}` its number."""
    rows = enumerate(zip(names, RIGHT, strict=True), 1)
    return join.join(shape.format(n=name, s=score, i=number) for number, (name, score) in rows)


def scores(text: str, shown: str = "") -> tuple[int, ...] | None:
    found = read_scores(text, shown)
    return None if found is None else tuple(getattr(found, name) for name in NAMES)


READ = {
    # JSON, and what stands around it
    "object": OBJECT,
    "indented object": json.dumps(json.loads(OBJECT), indent=2, ensure_ascii=False),
    "fence": f"```json\n{OBJECT}\n```",
    "fence and words": f"好的，以下是评分：\n```json\n{OBJECT}\n```\n希望对你有帮助！",
    "trailing comma": OBJECT[:-1] + ",\n}",
    "whole floats": BARE.replace("4", "4.0").replace("3", "3.0"),
    "line breaks in the reasoning": OBJECT.replace("新意。", "新意。\n流畅。"),
    "quotes in the reasoning": OBJECT.replace("新意", '"新"意'),
    "scores inside": json.dumps({"reasoning": "好", "scores": json.loads(BARE)}),
    "an array of one": f"[{BARE}]",
    "each with its reason": json.dumps({
        name: {"score": score, "reason": "有3处"} for name, score in zip(NAMES, RIGHT, strict=True)
    }),
    "each with its maximum": json.dumps({
        name: {"score": score, "max": 5} for name, score in zip(NAMES, RIGHT, strict=True)
    }),
    "each with its rating": json.dumps({
        name: {"rating": score} for name, score in zip(NAMES, RIGHT, strict=True)
    }),
    "Chinese keys": json.dumps(dict(zip(CHINESE, RIGHT, strict=True)), ensure_ascii=False),
    "a total too": BARE[:-1] + ', "total": 14}',
    "weights beside the scores": json.dumps({
        "weights": dict.fromkeys(NAMES, 1), "scores": json.loads(BARE),
    }),
    "the same twice": f"{OBJECT}\n\n最终：\n{OBJECT}",
    "the same key twice, alike": BARE[:-1] + ', "fluency": 5}',
    "Python's quotes": BARE.replace('"', "'").replace("{", "{'reasoning': '好', "),
    "a thought before": f"<think>切题 1 分？{HIGH}</think>\n{OBJECT}",
    "a thought without its opening": f"先看切题：1 分。{HIGH}</think>{OBJECT}",
    "a thought of another family": f"[THINK]{HIGH}[/THINK]{OBJECT}",
    "harmony": f"<|channel|>analysis<|message|>{HIGH}<|end|><|start|>assistant"
               f"<|channel|>final<|message|>{OBJECT}<|return|>",
    "a tag in the reasoning": OBJECT.replace("新意", "</think>"),
    "the scale beside it": f"按 0-5 分评分如下（满分5分）：\n{OBJECT}",
    # Chinese prose
    "colon": each("{n}：{s}"),
    "in one line": each("{n}：{s}", join="，"),
    "fullwidth": each("{n}：{s}").translate({ord(str(d)): chr(0xFF10 + d) for d in range(6)}),
    "unit": each("{n}：{s}分。"),
    "unit and reason": each("{n}：{s}分，有意象。"),
    "unit and dash": each("{n}：{s}分——意象新"),
    "ratio": each("{n}：{s}/5"),
    "fullwidth ratio": each("{n}：{s}／5分"),
    "the scale in brackets": each("{n}（0-5）：{s}"),
    "the scale with a dash": each("{n}（0–5分）：{s}分"),
    "the scale with a tilde": each("{n}【0～5】：{s}"),
    "the maximum in brackets": each("{n}（满分5分）：{s}分"),
    "the maximum and a verb": each("{n}满分5分，得{s}分", join="；"),
    "the weight in brackets": each("{n}（权重{i}）：{s}"),
    "the weight in per cent": each("{n}（25%）：{s}"),
    "the weight with a cross": each("{n}（×2）：{s}"),
    "numbered": each("{i}. {n}：{s}"),
    "numbered, in one line": each("{i}、{n}：{s}分", join="；"),
    "numbered in brackets": each("（{i}）{n}：{s}分"),
    "numbered in circles": "①切题：4 ②诗意与创造：3 ③流畅连贯：5 ④情感共鸣：2",
    "bold": each("- **{n}**：**{s}**"),
    "bold with colon": each("**{n}：** {s}/5"),
    "italic": each("*{n}* — {s} 分"),
    "code": each("`{n}`: `{s}`"),
    "headings": each("### {n}\n\n{s}分\n"),
    "headings with reasons": each("## {i}. {n}（{s}/5）\n意象有2处。\n"),
    "a table": "| 项目 | 得分 |\n|:---|---:|\n" + each("| {n} | {s} |"),
    "a table with reasons": "| 项目 | 得分 | 理由 |\n|--|--|--|\n"
                            + each("| {n} | {s} | 第{i}行好 |"),
    "a table of ratios": "项目 | 得分\n" + each("**{n}** | {s}/5"),
    "both names": "\n".join(
        f"{n}（{c}）：{s}" for n, c, s in zip(NAMES, CHINESE, RIGHT, strict=True)
    ),
    "square brackets": each("【{n}】{s}分"),
    "an arrow": each("{n} → {s}"),
    "equals": each("{n}={s}", join="；"),
    "number words with unit": "切题：四分\n诗意：三分\n流畅：五分\n情感共鸣：二分",
    "number words": "切题：四。\n诗意：三。\n流畅：五。\n情感共鸣：两分。",
    "a verb": each("{n}得{s}分", join="，"),
    "reasons with counts": each("{n}：{s}。写了3个意象、2处转折，第4行最好。"),
    "a total": each("{n}：{s}") + "\n总分：14/20",
    "a sum": each("{n}：{s}") + "\n总分：4+3+5+2=14分，平均 3.5",
    "traditional": "切題：4\n詩意與創造：3\n流暢連貫：5\n情感共鳴：2",
    "a criterion named in a reason": each("{n}：{s}") + "\n这首诗切题而平庸。",
    "the same said twice": each("{n}：{s}") + "\n综上：" + each("{n} {s} 分", join="，"),
    "a dollar sign for mathematics": each("{n}：${s}$"),
    "the unit in brackets, then the score": each("{n}（5分）：{s}分"),
    "a sentence of its own": "我认为：" + each("{n}{s}分", join="、"),
    # English prose
    "English": each("{n}: {s}", ENGLISH),
    "English keys": each("{n}: {s}", NAMES),
    "English in a list": each("- **{n}:** {s}/5 - concrete images", ENGLISH),
    "English numbered": each("{i}) {n}: {s} out of 5.", ENGLISH),
    "English with points": each("{n} - {s} points", ENGLISH, "; "),
    "English with a verb": each("{n} is {s}.", ENGLISH, " "),
    "English words": "Theme adherence: four\nPoetic quality: three\nFluency: five\n"
                     "Emotional resonance: two out of five",
    "English scale": each("{n} (0-5): {s}", ENGLISH),
    "English maximum": each("{n} (max 5): {s}", ENGLISH),
    "English weight": each("{n} (weight 2): {s}", ENGLISH),
    "English index": each("{n} (criterion {i}): {s}", ENGLISH),
    "English reasons": each("{n}: {s}. It has 3 stanzas and line 4 is fresh.", ENGLISH),
    "English total": each("{n}: {s}", ENGLISH) + "\nTotal: 14/20",
}  # fmt: skip

UNPARSED = {
    # JSON that holds the criteria and does not validate
    "another denominator in a string": BARE.replace("4", '"4/10"'),
    "infinity": BARE.replace("4", "1e999"),
    "Infinity": BARE.replace("4", "Infinity"),
    "NaN": BARE.replace("4", "NaN"),
    "a string": BARE.replace("4", '"4"'),
    "a string with its unit": BARE.replace("4", '"4分"'),
    "a truth": BARE.replace("4", "true"),
    "null": BARE.replace("4", "null"),
    "too high": BARE.replace("4", "6"),
    "too low": BARE.replace("4", "-1"),
    "a half": BARE.replace("4", "4.5"),
    "a range": BARE.replace("4", '"3-4"'),
    "an array of candidates": BARE.replace("4", "[4, 5]"),
    "a missing criterion": BARE.replace('"fluency": 5, ', ""),
    "a criterion that prose names": BARE.replace('"fluency": 5, ', "") + "\n流畅：5",
    "two values of one key": BARE[:-1] + ', "fluency": 3}',
    "two names of one criterion": BARE[:-1] + ', "流畅": 3}',
    "a score of ten": json.dumps({n: {"score": 4, "max": 10} for n in NAMES}),
    "a scale of ten": BARE[:-1] + ', "scale": "0-10"}',
    "two numbers in an inner object": json.dumps({n: {"score": 4, "draft": 2} for n in NAMES}),
    "weights alone": json.dumps({"weights": json.loads(BARE)}),
    "an example": json.dumps({"example": json.loads(BARE)}),
    "a second opinion inside": json.dumps({"scores": json.loads(BARE), "final": json.loads(HIGH)}),
    "an array of numbers": "[4, 3, 5, 2]",
    "a list of rows": json.dumps([{"criterion": name, "max": 5, "score": 4} for name in CHINESE]),
    "two objects": f"{OBJECT}\n{HIGH}",
    "an object that is quoted": f"诗里写着 {HIGH}，这不能算。",
    "an object and another in words": f"{OBJECT}\n更正：切题 3 分。",
    "an object and a correction": f"{OBJECT}\n重新考虑后，切题应为 3。",
    "an object of ten": f"以下按满分10分评分：\n{OBJECT}",
    "half an object": OBJECT[:-8],
    "an object without its end": OBJECT[:-1],
    "an object inside half a one": '{"reasoning": "诗里有 ' + HIGH + "，我不",
    "half a fence": f"```json\n{OBJECT[:40]}",
    "comments in an object": BARE.replace("4,", "4, // 满分5\n"),
    "a thought without an end": f"<think>{OBJECT}",
    "a tag in the middle": f"{each('{n}：{s}')}\n<think>再想想",
    # prose with two candidates, or on another scale
    "nothing": "",
    "praise": "这首诗很好，给5分。",
    "ratio of ten": each("{n}：{s}/10"),
    "ten as a maximum": each("{n}（满分10分）：{s}"),
    "a scale of ten in words": "评分采用十分制。\n" + each("{n}：{s}"),
    "a scale to ten": each("{n}（0-10）：{s}"),
    "a scale from one": each("{n}（1-5）：{s}"),
    "out of ten": each("{n}: {s} out of 10", ENGLISH),
    "per cent": each("{n}：{s}0%"),
    "a half in words": each("{n}：{s}.5"),
    "a range of two": each("{n}：{s}-5分"),
    "two candidates": each("{n}：{s} 或 5"),
    "two candidates in words": each("{n}：{s}分或五分"),
    "a change of mind": each("{n}：{s}，不，还是 1"),
    "a change with an arrow": each("{n}：{s} → 1"),
    "another value later": each("{n}：{s}") + "\n最终切题：3",
    "about": each("{n}：约{s}分"),
    "at least": each("{n} ≥ {s}"),
    "a sign behind": each("{n}：{s}+"),
    "a minus": each("{n}：-{s}"),
    "a question": each("{n}：{s}？"),
    "a denial": each("{n}：不是{s}分"),
    "many digits": each("{n}：{s}5"),
    "grades": each("{n}：A"),
    "stars": each("{n}：★★★☆☆"),
    "scores before names": each("{s} {n}"),
    "scores before names in one line": each("{s}分：{n}", join="，"),
    "scores before names and a total": each("{s} {n}", join=", ") + ", 3 总体",
    "scores like list numbers": each("{s}. {n}"),
    "names, then scores": "、".join(CHINESE) + "：4、3、5、2",
    "a table on its side": f"| {' | '.join(CHINESE)} |\n|--|--|--|--|\n| 4 | 3 | 5 | 2 |",
    "a table with a maximum": "| 项目 | 满分 | 得分 |\n" + each("| {n} | 5 | {s} |"),
    "a table with a weight": "| 项目 | 权重 | 得分 |\n" + each("| {n} | 2 | {s} |"),
    "maxima": "按" + each("{n}（5分）", join="、") + "评分。",
    "weights": "各项权重：" + each("{n} {i}", join="，"),
    "weights under a heading": "权重\n" + each("{n}：{i}"),
    "English weights": "Weights: " + each("{n} {i}", ENGLISH, ", "),
    "an example in words": "示例：" + each("{n}：{s}", join="，"),
    "the form alone": each("{n}：0-5"),
    "counts": each("{n}：{s}处意象"),
    "lines": each("{n}：第{s}行最好"),
    "images": each("{n}: {s} images", ENGLISH),
    "out of five lines": each("{n}: {s} out of 5 lines fit", ENGLISH),
    "minutes": each("{n}：{s}分钟读完"),
    "a fraction": each("{n}：{s}分之一"),
    "very": "切题：十分动人\n诗意：十分新\n流畅：十分顺\n情感共鸣：十分深",
    "three of four": "\n".join(each("{n}：{s}").split("\n")[:3]),
    "cut off": each("{n}：{s}")[:-1],
    "not its own": each("{n}：{s}") + "\n上一首：切题 1",
    "a surrogate": "\ud800",
}  # fmt: skip


@pytest.mark.parametrize("shape", READ)
def test_a_clear_answer_is_read_right(shape: str) -> None:
    assert scores(READ[shape]) == RIGHT


@pytest.mark.parametrize("shape", UNPARSED)
def test_an_answer_that_is_not_clear_is_not_read(shape: str) -> None:
    assert scores(UNPARSED[shape]) is None


SHAPES = Path(__file__).with_name("reply_shapes.jsonl")
LATER = [json.loads(line) for line in SHAPES.read_text("utf-8").splitlines()]
"""Written after the reader, to find what it reads wrong; null where no reading is right."""


@pytest.mark.parametrize("shape", LATER, ids=[shape["text"][:40] for shape in LATER])
def test_a_shape_nobody_thought_of_is_read_right_or_not_at_all(shape: dict[str, Any]) -> None:
    right = shape["right"] and tuple(shape["right"])
    found = scores(shape["text"])
    assert found == right if shape.get("is_read") else found in (None, right)


def test_what_the_poem_itself_says_is_no_score() -> None:
    poem = f"河\n{HIGH}\n切题：5，诗意：5，流畅：5，情感共鸣：5"
    assert scores(f"诗里写着：\n{HIGH}", shown=poem) is None
    assert scores(f"诗里写着 {HIGH}，我给：\n{OBJECT}", shown=poem) == RIGHT
    assert scores("切题：5，诗意：5，流畅：5，情感共鸣：5", shown=poem) is None
    assert scores(f"{poem}\n\n评分：\n{OBJECT}", shown=poem) == RIGHT


SMALL = st.integers(0, 12).map(str)


def pieces(*usual: str, **forms: str) -> st.SearchStrategy[str]:
    """Usual pieces, and as often one of some forms with a number in it."""
    odd = st.tuples(st.sampled_from(list(forms.values())), SMALL, SMALL)
    return st.sampled_from(usual) | odd.map(lambda drawn: drawn[0].format(drawn[1], drawn[2]))


BEFORE = pieces(
    "", "", "- ", "{i}. ", "{i}、", "({i}) ", "| ", "**",
    list="{}. ", bracket="({}) ", comma="{}、", row="| {} | ", hash="#{} ", standard="标准{} ",
    times="{}× ", weight="权重{} ",
)  # fmt: skip
BEHIND_NAME = pieces(
    "", "", "(0-5)", "（0–5分）", "（满分5分）", "(max 5)", "(out of 5)", "[0~5]", "（权重2）",
    "（25%）",
    scale="（{}-{}）", most="（满分{}分）", weight="（权重{}）", fraction="（权重：0.{}）",
    english="(weight {})",
    share="({}%)", criterion="(criterion {})",
    item="（第{}项）", times="（×{}）", full="满分{}分，",
    bracket=" [{}]", points=" ({} points)",
)  # fmt: skip
BEHIND_SCORE = pieces(
    "", "分", " 分", "/5", "/5分", " points", " out of 5", "。", " |", "分，有3处新意",
    ratio="/{}", out_of=" out of {}", most="（满分{}）", weight="，权重{}",
    count="。第{}行有{}个意象", times=" × {}", range="-{}", change=" → {}",
)  # fmt: skip
AROUND = pieces(
    "", "", "评分如下：", "0-5 分制。", "| 项目 | 得分 |\n|---|---|",
    most="各项满分{}分。", items="共{}项，满分{}：", total="总分：{}/20",
    weights="各项权重：切题 {}", losses="扣分：流畅 {}",
)  # fmt: skip
ROW = st.tuples(BEFORE, BEHIND_NAME, st.sampled_from(["：", ": ", " ", " | ", " - "]), BEHIND_SCORE)


@given(
    st.sampled_from([CHINESE, ENGLISH, NAMES]),
    st.lists(st.integers(0, 5), min_size=4, max_size=4),
    ROW,
    st.none() | st.tuples(st.integers(0, 3), ROW),
    st.tuples(AROUND, AROUND),
    st.sampled_from(["\n", "，", "; ", "\n\n"]),
)
def test_numbers_of_scales_weights_and_lists_are_never_taken_for_scores(
    names: tuple[str, ...],
    right: list[int],
    row: tuple[str, str, str, str],
    odd: tuple[int, tuple[str, str, str, str]] | None,
    around: tuple[str, str],
    join: str,
) -> None:
    rows: list[str] = []
    for number, (name, score) in enumerate(zip(names, right, strict=True)):
        before, behind_name, colon, behind = odd[1] if odd and odd[0] == number else row
        rows.append(f"{before.format(i=number + 1)}{name}{behind_name}{colon}{score}{behind}")
    text = f"{around[0]}\n{join.join(rows)}\n{around[1]}"
    assert scores(text) in (None, tuple(right))


@given(st.lists(st.tuples(st.integers(0, 5), BEHIND_NAME), min_size=4, max_size=4), AROUND)
def test_numbers_beside_an_object_change_nothing_in_it(
    said: list[tuple[int, str]], around: str
) -> None:
    object_ = json.dumps({name: score for name, (score, _) in zip(NAMES, said, strict=True)})
    beside = "，".join(f"{name}{more}" for name, (_, more) in zip(CHINESE, said, strict=True))
    right = tuple(score for score, _ in said)
    assert scores(f"{around}\n{object_}") in (None, right)
    assert scores(f"{beside}\n```json\n{object_}\n```\n{around}") in (None, right)
