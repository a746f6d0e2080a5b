"""Tables: which columns are taken, and what is refused rather than guessed."""

import io
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from verse.poem_files import Found, LeftOut, ReadOptions, Refused, Taken
from verse.poem_files.reading import ContentError
from verse_trainer.data_set.tables import read_table

NONE = ReadOptions()


def read(text: str, name: str = "诗.csv", options: ReadOptions = NONE) -> list[Found]:
    found = read_table(text.encode(), Path(name), options)
    assert found is not None
    return found


def poems(found: list[Found]) -> list[tuple[str, str, int]]:
    return [(p.poem.theme, p.poem.text, p.line) for p in found if isinstance(p, Taken)]


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ('title,text\n河,"水在走\n灯不走"\n雨,落\n', "a.csv"),
        ('\ufeff题目;正文;作者\n河;"水在走\n灯不走";张三\n雨;落;\n', "a.csv"),
        ('theme\tpoem\n河\t"水在走\n灯不走"\n\n雨\t落\n', "a.tsv"),
        ('id,Title,Content,备注\n1,河,"水在走\n灯不走",\n2,雨,落,x\n', "a.csv"),
    ],
)
def test_headers_that_can_mean_nothing_else_are_taken(text: str, name: str) -> None:
    found = read(text, name)
    assert [poem[:2] for poem in poems(found)] == [("河", "水在走\n灯不走"), ("雨", "落")]
    assert poems(found)[1][2] == text[: text.index("雨")].count("\n") + 1


def test_other_columns_say_who_and_whether() -> None:
    found = read("题目,内容,作者,status\n河,水,张三,通过\n雨,落,,退稿\n")
    taken, left_out = found
    assert isinstance(taken, Taken)
    assert taken.poem.author == "张三"
    assert isinstance(left_out, LeftOut)
    assert left_out.reason == "rejected"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            "title,text,poem,内容\n河,水,灯,岸\n",
            r"3 of its columns may hold the poem \(text, poem, 内容\)",
        ),
        ("title,标题,text\n河,雨,水\n", r"2 of its columns may hold the theme \(title, 标题\)"),
        (
            "theme\n河\n母亲\n",
            r"none of its columns is called poem \(theme\); name one with --text",
        ),
        ("a,text\n河,水\n", "none of its columns is called theme"),
        ("title,title,text\na,b,c\n", "the same name"),
        ("\n,,\n", "the table is empty"),
        ('title,text\n河,"水"在走\n', "the table is broken here"),
        ("title,text\n河,水在走,灯不走\n", "more cells than the table has columns"),
        ("title,text\n河," + "水" * 140_000 + "\n", "the table is broken here: field larger"),
    ],
)
def test_what_is_not_plain_is_refused_rather_than_guessed(text: str, problem: str) -> None:
    with pytest.raises(ContentError, match=problem):
        read(text)


def test_columns_are_named_or_counted_by_the_user() -> None:
    table = "a,b,text,poem\nx,河,水,灯\n"
    by_name = ReadOptions(theme_column="b", text_column="Poem")
    assert poems(read(table, options=by_name)) == [("河", "灯", 2)]
    by_number = ReadOptions(theme_column="2", text_column="3")
    assert poems(read(table, options=by_number)) == [("河", "水", 2)]
    with pytest.raises(ContentError, match="no column 'z' for --text-column; it has a, b"):
        read(table, options=ReadOptions(theme_column="b", text_column="z"))


def test_rows_of_questions_and_answers_need_no_column() -> None:
    assert poems(read("prompt,completion\n河,水\n")) == [("河", "水", 2)]
    assert poems(read("instruction,input,output\n写诗,河,水\n")) == [("河", "水", 2)]


def test_a_table_in_another_encoding_says_so() -> None:
    content = "题目,正文\n渡口,渡口的风把缆绳吹成一根弦\n".encode("gbk")
    (piece,) = read_table(content, Path("a.csv"), NONE) or []
    assert isinstance(piece, Taken)
    assert piece.kind == "rows of a table (GB18030)"


def test_an_empty_cell_and_an_empty_table_are_refused() -> None:
    (_, refused) = read("title,text\n河,水\n雨,\n")
    assert isinstance(refused, Refused)
    assert "its poem is empty" in str(refused)
    (none,) = read("title,text\n")
    assert isinstance(none, Refused)


def in_parquet(columns: dict[str, list[object]]) -> bytes:
    stream = io.BytesIO()
    parquet.write_table(pyarrow.table(columns), stream)
    return stream.getvalue()


def test_parquet_is_a_table_or_rows_like_those_of_json() -> None:
    table = in_parquet({"title": ["河"], "content": ["水"], "n": [1]})
    assert poems(read_table(table, Path("a"), NONE) or []) == [("河", "水", 1)]
    turns = [{"role": "user", "content": "河"}, {"role": "assistant", "content": "水"}]
    rows = in_parquet({"messages": [turns]})
    assert poems(read_table(rows, Path("a"), NONE) or []) == [("河", "水", 1)]
    with pytest.raises(ContentError, match="is broken"):
        read_table(b"PAR1" + table[20:], Path("a"), NONE)
    with pytest.raises(ContentError, match="2 of its columns"):
        read_table(in_parquet({"title": ["a"], "text": ["b"], "诗": ["c"]}), Path("a"), NONE)


def test_parquet_is_measured_before_it_is_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("verse_trainer.data_set.tables._MAX_ROWS", 1)
    with pytest.raises(ContentError, match="it has 2 rows"):
        read_table(in_parquet({"title": ["a", "b"], "text": ["b", "c"]}), Path("a"), NONE)


def test_any_other_file_is_no_table() -> None:
    assert read_table(b"title,text\n", Path("a.txt"), NONE) is None
