"""Who wrote a poem, and when: lines under its title or at its end that are no part of it.

Taken wherever they stand there: `作者：张三`, `文/张三`, `（唐）李白`, and a line that is a date
with or without a place: `2020.1.2 于杭州`, `写于二〇二〇年冬`. A bare name (`张三`) is harder:
`黄昏` may be one, too, and a line that is lost is worse than a name too many. It is taken

- if it is known: the file's author, or written out in another place of the file;
- if it stands under or above the titles of two or more poems of the file, and of half of them;
- if it begins with a surname and stands alone right under a title, or beside a date.
"""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from itertools import pairwise

import msgspec

_HAN = r"\u3400-\u9fff"
_NAME = rf"(?:[{_HAN}·•]{{2,8}}|[A-Za-zÀ-ž][A-Za-zÀ-ž.'’ -]{{1,30}})"
_DYNASTIES = (
    "先秦|秦|西汉|东汉|汉|漢|三国|魏|西晋|东晋|晋|晉|南朝|北朝|南北朝|隋|唐|五代|南唐|北宋|南宋|宋|辽|金|元|"
    "明|清|民国|近代|近现代|现代|当代|佚名"
)
_AUTHOR = re.compile(
    rf"\s*(?:(?:作\s*者|诗\s*人|撰\s*文)\s*[:：/／|｜\s]\s*|author\s*[:：]\s*|[文诗著作]\s*[:：/／|｜]\s*)"
    rf"[【（(\[]?\s*(?P<name>{_NAME}(?:\s?[、/&]\s?{_NAME}){{0,5}})\s*[】）)\]]?\s*",
    re.IGNORECASE,
)
_CAPITALISED = r"[A-ZÀ-Ý][\w.'’-]*"
_BY = re.compile(rf"\s*[Bb]y:?\s+(?P<name>{_CAPITALISED}(?: {_CAPITALISED}){{1,3}})\s*")
_WRITES = re.compile(
    rf"\s*(?P<name>[{_HAN}·]{{2,6}})\s*(?:[/／|｜]\s*[文诗著作]|\s(?:文|诗|著|作))\s*"
)
_DYNASTY = re.compile(
    rf"\s*(?:[\[［【（(〔](?:{_DYNASTIES})[\]］】）)〕]|(?:{_DYNASTIES})[·•・])\s*"
    rf"(?P<name>[{_HAN}·]{{2,6}})\s*"
)
_SIGNED = re.compile(rf"\s*(?:[-—–―－]{{1,3}}|@)\s*(?P<name>[{_HAN}·]{{2,4}})\s*")
_MORE = re.compile(r"[（(](?:外|组|选|节|其)[^（()）]{1,8}[)）]")
_BARE = re.compile(rf"\s*(?P<name>[{_HAN}]{{2,4}}|[{_HAN}]{{1,5}}·[{_HAN}]{{1,8}})\s*")

_DIGIT = "[〇零○OＯ一二三四五六七八九]"
_YEAR = rf"(?:(?:1[0-9]|20)\d\d|[一二]{_DIGIT}{{3}})"
_SEASON = r"[初仲暮深早晚]?[春夏秋冬](?:天|日|夜|月)?"
_ARABIC = (
    r"(?:1[0-9]|20)\d\d\s*[-.．/／－—–·、年]\s*\d{1,2}"
    r"(?:\s*[-.．/／－—–·、月]\s*\d{1,2}\s*[日号]?|\s*月)?"
)
_CHINESE = (
    rf"{_YEAR}\s*年(?:\s*(?:[元正腊冬]|[一二三四五六七八九十]{{1,2}}|\d{{1,2}})\s*月"
    rf"(?:\s*(?:[一二三四五六七八九十廿卅初]{{1,3}}|\d{{1,2}})\s*[日号]?)?|\s*{_SEASON})?"
)
_CYCLE = (
    r"[甲乙丙丁戊己庚辛壬癸][子丑寅卯辰巳午未申酉戌亥]年?"
    rf"(?:[一二三四五六七八九十正腊冬]{{1,2}}月|{_SEASON})?"
)
_COMPACT = r"(?:19|20)\d\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])"
_HOUR = (
    r"(?:凌晨|清晨|早晨|早上|上午|中午|正午|午后|下午|傍晚|黄昏|晚上|晚|夜里|深夜|夜)?"
    r"\s*(?:\d{1,2}[:：]\d{2}(?:[:：]\d{2})?|\d{1,2}[时点](?:半|\d{1,2}分?)?)?"
)
_DAY = rf"(?:{_ARABIC}|{_COMPACT}|{_CHINESE})"
_PLACE = rf"(?:(?![我你您他她它的了是不没])[{_HAN}A-Za-z·,，、\s])"
_WRITTEN = (
    r"(?:(?:初稿|定稿|修改|修订|改|写|作|记|草|完成)?[于於在]|初稿|定稿|修改|改定|写|作|"
    r"(?:写作|创作)?(?:时间|日期|date|time)\s*[:：])?\s*[:：]?"
)
_DATE = re.compile(
    rf"[\s（(【\[—–\-*]*{_WRITTEN}\s*"
    rf"(?:{_DAY}(?:\s*[-—–~～至到、，]\s*(?:{_DAY}|\d{{1,2}}(?:\.\d{{1,2}}|[日号])))?"
    rf"|{_CYCLE}(?=\s*[于於在]|\s*$))"
    rf"\s*{_HOUR}\s*"
    rf"(?:[,，]?\s*(?:写|作|改|草|记|稿)?[于於在]{_PLACE}{{1,14}}|[,，\s]\s*{_PLACE}{{1,10}}|[写作改稿草])?"
    r"[\s）)】\].。*]*",
    re.IGNORECASE,
)
_PLACE_FIRST = re.compile(
    rf"[\s（(【\[—–\-]*(?:[写作改草记]?[于於在])?[{_HAN}·]{{2,10}}[,，、\s]\s*{_DAY}\s*{_HOUR}[\s）)】\].。]*"
)
_BARE_YEAR = re.compile(r"[\s（(]*(?:19|20)\d\d[\s）).。]*")

_SURNAMES = frozenset(
    "王李张刘陈杨赵黄周吴徐孙胡朱高林何郭马罗梁宋郑谢韩唐冯于董萧程曹袁邓许傅沈曾彭吕苏卢蒋蔡贾丁魏薛叶阎余潘杜戴"
    "夏钟汪田任姜范方石姚谭廖邹熊金陆郝孔白崔康毛邱秦江史顾侯邵孟龙万段雷钱汤尹黎易常武乔贺赖龚文庞樊兰殷施陶洪翟"
    "颜倪严牛温芦季俞章鲁葛伍韦申尤毕聂丛焦向柳邢路岳齐梅莫庄辛管祝左涂谷祁时舒耿牟卜詹关苗凌费纪靳盛童欧甄项曲"
    "裴席卫查屈鲍覃霍翁隋甘景薄单包柏宁柯阮桂闵解强柴华车冉房边张劉陳楊趙黃吳孫馬羅鄭謝韓馮蕭鄧許呂蘇盧蔣賈葉閻"
)
_DOUBLE_SURNAMES = (
    "欧阳",
    "上官",
    "司马",
    "诸葛",
    "东方",
    "皇甫",
    "尉迟",
    "公孙",
    "慕容",
    "令狐",
    "司徒",
    "夏侯",
)
_LIKE_NAMES = (
    "黄昏 江南 江水 江河 江湖 江山 黄河 黄金 黄叶 黄土 白雪 白云 白色 白天 "
    "白发 白鸟 白马 金色 金黄 石头 石阶 马路 马车 车站 车窗 方向 温暖 温柔 "
    "高山 高处 高原 云南 夏天 夏夜 夏日 秋天 雷声 雷雨 万物 万家 时间 时光 "
    "文字 康复 安静 路灯 路口 路上 路过 田野 田埂 林间 林中 花开 关门 关于 "
    "向晚 向北 向南 向日葵 边缘 边界 解冻 包裹 单车 甘甜 常常 常年 易碎 任何 "
    "任凭 何处 何时 何年 许多 许久 余生 余下 余温 于是 梅雨 梅花 柳树 柳絮 "
    "桂花 兰草 叶子 叶落 谷雨 谷子 陆地 孔雀 宁静 强光 左手 项链 曲子 席地 "
    "边走 房间 房子 华灯 龙舟 汤圆 钱包 丁香 周末 周日 高楼 杨柳 李子 石板 "
    "石桥 水乡"
)
_NO_NAMES = frozenset(_LIKE_NAMES.split())
"""Words that a poem may begin or end with and that look like names."""
_MAX_TAKEN = 4
_MAX_CHARACTERS = 60
"""Of such a line; a longer one is none."""


class Bylines(msgspec.Struct, frozen=True):
    """What such lines say."""

    author: str = ""
    date: str = ""
    """As it was written, with the place."""

    def filled(self, other: "Bylines") -> "Bylines":
        """These, and of the other what is missing here."""
        return Bylines(self.author or other.author, self.date or other.date)

    def as_fields(self) -> tuple[tuple[str, str], ...]:
        """By name, those that are there."""
        fields = (("author", self.author), ("date", self.date))
        return tuple((name, value) for name, value in fields if value)


def is_byline(line: str) -> bool:
    """Whether the line says, wherever it stands, who wrote something or when."""
    return _plain(line) is not None


def beside_title(rest: str) -> Bylines | None:
    """What stands behind a title in its line: nothing, who wrote it, or how many more there are.

    Returns:
        None if it is something else, so that the line is no title.
    """
    rest = _MORE.sub("", rest).strip()
    name = rest.strip("/／|｜·—–- 　")
    if not name or surnamed(name):
        return Bylines(name)
    return _plain(name) or _plain(rest)


def bare_name(line: str) -> str:
    """The line, if it could be a name and nothing else; else empty."""
    bare = _BARE.fullmatch(line)
    return "" if bare is None or bare["name"] in _NO_NAMES else bare["name"]


def known_names(poems: Iterable[Sequence[str]], known: Collection[str] = ()) -> frozenset[str]:
    """Names of authors in a file.

    Args:
        poems: The lines of each, its title left out.
        known: Those that are known already.
    """
    poems = list(poems)
    names = set(known)
    for lines in poems:
        ends = (*lines[:_MAX_TAKEN], *lines[-_MAX_TAKEN:])
        names |= {said.author for line in ends if (said := _plain(line)) and said.author}
    first = Counter(bare_name(lines[0]) for lines in poems if len(lines) > 1)
    last = Counter(_last_apart(lines) for lines in poems)
    for names_there in (first, last):
        names |= {n for n, count in names_there.items() if count > 1 and 2 * count >= len(poems)}
    return frozenset(names - {""})


def _last_apart(lines: Sequence[str]) -> str:
    """A bare name that a gap parts from the poem above it."""
    text = "\n".join(lines).rstrip()
    above, _, last = text.rpartition("\n")
    return bare_name(last) if above and not above.rpartition("\n")[2].strip() else ""


def take_bylines(
    lines: Sequence[str], names: Collection[str], *, has_title: bool
) -> tuple[tuple[str, ...], Bylines]:
    """Part a poem's lines from those that say who wrote it and when; a poem always has some left.

    Args:
        lines: Those of the poem, its title left out.
        names: Of known authors.
        has_title: Whether the first line stands right under a title.
    """
    num_head, head = _head(lines, names, has_title=has_title)
    num_tail, tail = _tail(lines[num_head:], names)
    poem = lines[num_head : len(lines) - num_tail]
    if any(line.strip() for line in poem):
        return tuple(poem), head.filled(tail)
    if any(line.strip() for line in lines[num_head:]):
        return tuple(lines[num_head:]), head
    return tuple(lines), Bylines()


def _head(lines: Sequence[str], names: Collection[str], *, has_title: bool) -> tuple[int, Bylines]:
    said, num_taken = Bylines(), 0
    for index, line in enumerate(lines[: 2 * _MAX_TAKEN]):
        if not line.strip():
            continue
        one = _plain(line) or _signed(line, names)
        is_under_title = has_title and num_taken == index
        if one is None and is_under_title and _is_alone(lines, index):
            one = Bylines(surnamed(line)) if surnamed(line) else None
        if one is None or one.filled(said) == said:
            break
        said, num_taken = said.filled(one), index + 1
    return num_taken, said


def _tail(lines: Sequence[str], names: Collection[str]) -> tuple[int, Bylines]:
    said, num_taken = Bylines(), 0
    for index, (line, above) in enumerate(pairwise([*reversed(lines[-2 * _MAX_TAKEN :]), ""])):
        if not line.strip():
            continue
        one = _plain(line) or _signed(line, names)
        if one is None and _BARE_YEAR.fullmatch(line) and not above.strip():
            one = Bylines(date=line.strip())
        if one is None and surnamed(line) and (said.date or _is_date(above)):
            one = Bylines(surnamed(line))
        if one is None or one.filled(said) == said:
            break
        said, num_taken = said.filled(one), index + 1
    return num_taken, said


def _plain(line: str) -> Bylines | None:
    if len(line) > _MAX_CHARACTERS:
        return None
    for pattern in (_AUTHOR, _BY, _WRITES, _DYNASTY):
        if said := pattern.fullmatch(line):
            return Bylines(said["name"].strip())
    return Bylines(date=line.strip(" \t　（）()【】[]—–-*")) if _is_date(line) else None


def _is_date(line: str) -> bool:
    is_short = 0 < len(line) <= _MAX_CHARACTERS
    return is_short and bool(_DATE.fullmatch(line) or _PLACE_FIRST.fullmatch(line))


def _signed(line: str, names: Collection[str]) -> Bylines | None:
    """`——张三`, and a bare name that is known."""
    signed = _SIGNED.fullmatch(line)
    name = signed["name"] if signed else line.strip()
    is_name = name in names or (signed is not None and bool(surnamed(name)))
    return Bylines(name) if is_name else None


def surnamed(line: str) -> str:
    """The line, if it is a surname and one or two characters more; else empty."""
    name = bare_name(line)
    for surname in _DOUBLE_SURNAMES:
        if name.startswith(surname):
            return name if len(name) > len(surname) else ""
    return name if name[:1] in _SURNAMES and len(name) in (2, 3) else ""


def _is_alone(lines: Sequence[str], index: int) -> bool:
    """Whether a gap or a date stands under the line, and a poem under that."""
    below = lines[index + 1 :]
    return bool(below) and (not below[0].strip() or is_byline(below[0]))
