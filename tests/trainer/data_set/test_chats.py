"""Exported chats: whose words are whose, and which of them may be poems."""

from pathlib import Path

import pytest

from verse.poem_files import Found, LeftOut, ReadOptions, Taken
from verse_trainer.data_set.chats import read_chat

NONE = ReadOptions()
RIVER = "水在走\n灯不走"


def read(text: str, options: ReadOptions = NONE) -> list[Found] | None:
    return read_chat(text.encode(), Path("与李四的聊天.txt"), options)


def poems(found: list[Found] | None) -> list[tuple[str, str, str, int]]:
    return [
        (p.poem.theme, p.poem.text, p.doubt, p.line) for p in found or [] if isinstance(p, Taken)
    ]


MAC = f"""—————  2020-01-02  —————

张三  12:30

《河》
{RIVER}

[图片: 5a1.jpg(请在附件中查看)]

李四  12:31

真好

张三  12:40

雨

雨在落
伞也不

李四  12:41

雪压在秤盘上
卖菜的人等着
"""


def test_names_times_and_pictures_go_and_senders_are_asked_about() -> None:
    found = read(MAC)
    assert poems(found) == [
        ("河", RIVER, "张三 sent it", 5),
        ("雨", "雨在落\n伞也不", "张三 sent it", 17),
        ("雪压在秤盘上", "雪压在秤盘上\n卖菜的人等着", "李四 sent it", 24),
    ]
    assert [p.reason for p in found or [] if isinstance(p, LeftOut)] == ["too short for a poem"]


def test_the_user_says_who_the_poet_is() -> None:
    found = read(MAC, ReadOptions(sender="张三"))
    assert [(theme, doubt) for theme, _, doubt, _ in poems(found)] == [("河", ""), ("雨", "")]
    left_out = [p.reason for p in found or [] if isinstance(p, LeftOut)]
    assert left_out == ["too short for a poem", "sent by others"]


@pytest.mark.parametrize(
    "text",
    [
        f"2023-01-02 12:00:01 张三\n{RIVER}\n\n2023-01-02 12:00:05 张三\n[语音]\n",
        f"张三 2023/1/2 12:00\n{RIVER}\n张三 2023/1/2 12:05\n好\n",
        f"张三　2023年1月2日 下午 3:05\n{RIVER}\n\n张三　昨天 12:05\n好\n",
        "[2023/1/2 12:00:11] 张三: 水在走\n灯不走\n[2023/1/2 12:00:19] 张三: 好\n",
        f"2023-01-02 12:00:01 '张三'\n{RIVER}\n2023-01-02 12:00:05 '张三'\n张三撤回了一条消息\n",
        f"张三:\n{RIVER}\n\n张三:\n[图片]\n\n张三:\n好\n",
        f"张三：\n{RIVER}\n\n张三：\n「李四：水」\n- - - - - - - - - -\n好\n\n张三：\n好\n",
    ],
)
def test_each_programs_way_to_write_a_message_is_known(text: str) -> None:
    ((theme, poem, doubt, _),) = poems(read(text))
    assert (theme, poem, doubt) == ("水在走", RIVER, "")


@pytest.mark.parametrize(
    "text",
    [
        f"《河》\n{RIVER}\n",
        "母亲说：\n水在走\n\n我说：\n灯不走\n",
        "12:30\n水在走\n\n灯不走\n",
        "写于 12:30\n水在走\n灯不走\n",
        "河\n\n他说：\n水\n\n她说：\n灯\n\n他说：\n岸\n",
        "2020-01-02 12:30\n水在走\n",
    ],
)
def test_a_poem_is_no_chat(text: str) -> None:
    assert read(text) is None


def test_who_sent_a_poem_is_its_author_unless_it_says_another() -> None:
    text = f"张三 12:00\n《河》\n{RIVER}\n张三 12:01\n《雨》\n作者：海子\n雨在落\n伞也不\n"
    found = read(text) or []
    assert [p.poem.author for p in found if isinstance(p, Taken)] == ["张三", "海子"]
