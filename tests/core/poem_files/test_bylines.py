"""Who wrote a poem and when: lines that are no part of it."""

import pytest

from verse.poem_files.bylines import Bylines, is_byline, known_names, take_bylines

POEM = ["水在走", "灯不走"]


@pytest.mark.parametrize(
    ("line", "author"),
    [
        ("作者：张三", "张三"),
        ("作者: 海子", "海子"),
        ("作 者　海子", "海子"),
        ("文/张三", "张三"),
        ("诗／海子", "海子"),
        ("张三/诗", "张三"),
        ("张三　著", "张三"),
        ("（唐）李白", "李白"),
        ("[宋] 苏轼", "苏轼"),
        ("清·纳兰性德", "纳兰性德"),
        ("By Anna Weiss", "Anna Weiss"),
        ("作者：张三、李四", "张三、李四"),
        ("Author: anna weiss", "anna weiss"),
    ],
)
def test_a_line_names_the_author(line: str, author: str) -> None:
    for has_title in (True, False):
        found = take_bylines([line, "", *POEM], (), has_title=has_title)
        assert found == (("", *POEM), Bylines(author))
    assert take_bylines([*POEM, line], (), has_title=False) == (tuple(POEM), Bylines(author))


@pytest.mark.parametrize(
    "line",
    [
        "2020.1.2 于杭州",
        "2020.1.2于杭州西湖",
        "2020年1月2日",
        "2020-01-02",
        "2020/1/2 23:15",
        "2020.1.2",
        "2020.1",
        "20200102",
        "2020年冬",
        "2020年1月2日，杭州",
        "2020.1.2 杭州",
        "写于2020年1月",
        "写于二〇二〇年冬夜",
        "二零二零年一月二日于杭州",
        "1998年8月3日夜改",
        "2019.12.30—2020.1.2",
        "庚子年冬月于杭州",
        "日期：2020-01-02",
        "于杭州，2020.1.2",
        "杭州，2020年1月2日",
        "2020年1月2日 傍晚",
    ],
)
def test_a_line_is_a_date_with_or_without_a_place(line: str) -> None:
    assert is_byline(line)
    assert take_bylines([*POEM, "", f"（{line}）"], (), has_title=True)[1] == Bylines(date=line)
    assert take_bylines([line, *POEM], (), has_title=True) == (tuple(POEM), Bylines(date=line))


def test_a_year_alone_is_a_date_at_the_end_and_behind_a_gap() -> None:
    assert take_bylines([*POEM, "", "1987"], (), has_title=True)[1] == Bylines(date="1987")
    assert take_bylines([*POEM, "1987"], (), has_title=True)[1] == Bylines()


@pytest.mark.parametrize(
    "line",
    [
        "2020年的冬天我在河边",
        "1987年，我还没有出生",
        "黄昏",
        "江水",
        "诗 在路上",
        "于是河走了",
        "写给母亲",
        "——水也不走",
        "一月的河",
        "10月",
        "冬天",
        "三点",
        "清晨的河",
        "by the river",
        "By morning the lamp",
        "author of rain",
    ],
)
def test_a_line_of_a_poem_stays(line: str) -> None:
    assert not is_byline(line)
    for lines in ([line, "", *POEM], [line, *POEM], [*POEM, line], [*POEM, "", line]):
        assert take_bylines(lines, (), has_title=True) == (tuple(lines), Bylines())


def test_a_bare_name_is_taken_where_it_stands_alone_under_a_title() -> None:
    assert take_bylines(["张三", "", *POEM], (), has_title=True)[1] == Bylines("张三")
    assert take_bylines(["欧阳克", "", *POEM], (), has_title=True)[1] == Bylines("欧阳克")
    for lines in (["张三", *POEM], ["", "张三", "", *POEM], [*POEM, "", "张三"]):
        assert take_bylines(lines, (), has_title=True) == (tuple(lines), Bylines())
    assert take_bylines(["张三", "", *POEM], (), has_title=False)[1] == Bylines()


def test_a_bare_name_beside_a_date_is_taken() -> None:
    both = Bylines("张三", "2020.1.2")
    assert take_bylines(["张三", "2020.1.2", *POEM], (), has_title=True)[1] == both
    assert take_bylines([*POEM, "张三", "2020.1.2"], (), has_title=True)[1] == both
    assert take_bylines([*POEM, "2020.1.2", "张三"], (), has_title=True)[1] == both


def test_a_name_that_is_known_is_taken_wherever_a_byline_may_stand() -> None:
    for lines in (["海子", *POEM], [*POEM, "", "——海子"], [*POEM, "海子"]):
        assert take_bylines(lines, {"海子"}, has_title=False)[1] == Bylines("海子")


OTHERS = (
    ["雨在落下来", "伞也不在"],
    ["雪压在秤盘上", "卖菜的人等着"],
    ["灯在水上走着", "没有回头"],
)


def test_names_are_known_from_the_rest_of_a_file() -> None:
    one, two, three = OTHERS
    assert known_names([["海子", *one], ["海子", *two]]) == {"海子"}
    assert known_names([[*one, "", "海子"], [*two, "", "海子"], three, POEM]) == {"海子"}
    assert known_names([["海子", *one], two, ["西川", *three]]) == set()
    assert known_names([["作者：海子", *one], ["海子", *two]]) == {"海子"}
    assert known_names([one], {"张三"}) == {"张三"}


def test_a_line_that_several_poems_end_with_is_no_name() -> None:
    assert known_names([[*poem, "没有回头"] for poem in OTHERS]) == set()


def test_a_poem_is_never_taken_away_whole() -> None:
    for lines in (["2020.1.2"], ["作者：张三", "2020.1.2"], ["", "张三", ""]):
        assert take_bylines(lines, {"张三"}, has_title=True) == (tuple(lines), Bylines())
