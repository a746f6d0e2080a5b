"""Scores and orders in a judge's own words, for servers that take no JSON schema.

Lenient about dress, strict about meaning. A score is read only where it directly follows its
criterion, and only if every other number of the answer is explained: as part of a scale, a maximum,
a weight, a numbering, a total, or as a count of something. A number that nobody can explain may be
a second opinion, so the answer counts as unreadable.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

NAMES = {
    "theme_adherence": r"theme[ _-]?adherence|adherence to (?:the )?theme|切[题題]|主[题題]契合",
    "poetic_quality": r"poetic[ _-]?quality|[诗詩]意(?:[与與和及]?[创創]造[力性]?)?",
    "fluency": r"fluency|流[畅暢](?:(?:[与與和及])?[连連][贯貫])?",
    "emotional_resonance": r"emotional[ _-]?resonance|情感共[鸣鳴]",
}
"""How judges write the criteria."""

PLAIN = str.maketrans({
    **{chr(code): chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)},
    **dict.fromkeys("\u3000\u00a0*`#$", " "), **dict.fromkeys("“”", '"'),
    **dict.fromkeys("【「『", "["), **dict.fromkeys("】」』", "]"), "。": ".", "、": ",",
    "\ufe0f": None,
})  # fmt: skip
_BLANK = re.compile(r"\s{3,}+")
_ANY_NAME = "(?:" + "|".join(NAMES.values()) + ")"
NAME = re.compile(
    r"(?<![^\W_])(?:" + "|".join(f"(?P<{name}>{spelt})" for name, spelt in NAMES.items()) + ")"
    r"(?![a-z])[度性]?",
    re.IGNORECASE,
)  # fmt: skip
_NUMBER = r"(?<![0-9])[0-9]++(?:\.[0-9]++)?+"
_UNIT = r"(?:分|points?\b|pts?\b|stars?\b)"
_GAP = r"[^\S\n]*"
_RANGE = r"(?:-|–|—|−|~|～|至|到|to|\.\.+|…+)"

_NO_MORE = r"(?![0-9/]|\.[0-9])"

_EXPLAINED = re.compile(
    "|".join([
        # Our scale and its maximum.
        rf"(?:\b(?:on )?a scale (?:of|from) )?(?<![0-9.])0\s*{_UNIT}?\s*{_RANGE}\s*5"
        rf"\s*(?:分制|{_UNIT})?{_NO_MORE}",
        r"(?:满分|滿分|最高分?|上限|\bmax(?:imum)?(?:[ _]score)?|\bfull (?:score|marks?))"
        rf"\s*(?:为|為|是|:|=|\bof\b|\bis\b)?\s*(?:5|五|five\b)(?:\.0)?\s*{_UNIT}?{_NO_MORE}",
        r"(?<![0-9.])(?:5|五)\s*分(?:制|为满分|满分)",
        rf"\bout of (?:a (?:possible|maximum) )?(?:5|five\b)(?:\s*{_UNIT})?"
        rf"{_NO_MORE}(?!\s*[a-z0-9])",
        rf"[(\[]\s*5\s*{_UNIT}\s*[)\]](?=\s*[:=]\s*[0-5]\s*(?:{_UNIT}\s*)?(?:$|[\n;,.|]))",
        # Weights.
        r"(?:权重|權重|比重|系数|占比|\bweight(?:ed|ing|age)?|\bcoefficient|\bw)"
        rf"\s*(?:为|是|占|\bof\b|\bis\b|:|=)?\s*{_NUMBER}(?:\s*%)?",
        rf"{_NUMBER}\s*%",
        rf"[x×✕]\s*{_NUMBER}",
        rf"{_NUMBER}\s*[x×✕](?![a-z]|\s*[0-9])",
        # Numbers of things.
        r"(?:\bcriteri(?:on|a)|\bitem|\bno\.|\bnumber|\bdimension|\baspect|\bpart|\bstep)\s*[0-9]+",
        r"(?:第|标准|標準|维度|維度|指标|条目|项目)\s*[0-9]+(?:\s*[-–~,]\s*[0-9]+)*\s*(?:[行句节節段首个個处處字次联稿名项項])?",
        r"(?:序号|编号|\bindex|\bid)\s*[:=]?\s*[0-9]+",
        r"\b(?:line|stanza|verse|couplet)s?\s+[0-9]+(?:\s*(?:-|–|,|\bto\b|\band\b)\s*[0-9]+)*",
        # Counts.
        rf"{_NUMBER}\s*(?:[个個处處行句字言次节節段种種首年月日天岁秒遍层位词联页条幅片朵盏组类项項大维元米里后]"
        r"|分[钟鐘]|小时|世纪)",
        r"(?<![0-9])[0-9]++[ -](?:lines?|stanzas?|images?|words?|characters?|poems?|verses?"
        r"|times?|syllables?|metaphors?|criteria|places?|couplets?)\b",
        r"(?<![0-9])(?:19|20)[0-9]{2}(?![0-9])",
        # Totals.
        r"(?:总分|總分|总计|合计|总评|总体|综合|平均分?|均分|\btotal|\boverall|\baverage|\bsum|\bmean)"
        r"(?:得分|评分|[ _]?score|[ _]?rating)?[\s:=为是|]*"
        rf"(?:{_NUMBER}\s*\+\s*)*{_NUMBER}(?:\s*=\s*{_NUMBER})?(?:\s*/\s*{_NUMBER})?\s*{_UNIT}?",
    ]),
    re.IGNORECASE,
)  # fmt: skip
"""Numbers that are no scores, with the words that say so."""
_GONE = "\0"
"""Stands where an explained number was: what follows it is not what stood before it."""
_FOREIGN = re.compile(
    r"(?:[十百七四三]|[0-46-9]|(?<![0-9])[0-9]{2,}+)\s*分制|满分\s*(?:为|是|:)?\s*(?!5(?![0-9]))[0-9十百一]"
    r"|\bout of (?!(?:a (?:possible|maximum) )?(?:5|five)\b)(?:[0-9]|ten\b|four\b|seven\b|a\b)"
    r"|\b(?:ten|four|seven|hundred)[- ]point|[0-9]\s*/\s*(?!5(?![0-9]))[0-9]"
    r"|(?:每|各)项\s*(?:满分)?\s*[:为是]?\s*(?:[十百]|[0-9]{2,})\s*分"
    r"|越[低小少]越好|越[高大多]越差|\blower (?:is|scores? (?:is|are)) better"
    rf"|(?<![0-9.])[01]\s*分?\s*{_RANGE}\s*(?!5(?![0-9]))[0-9]|(?<![0-9.])1\s*分?\s*{_RANGE}\s*5",
    re.IGNORECASE,
)
"""Another scale than 0 to 5."""
_TAKEN_BACK = re.compile(
    r"(?:分数?|评分|以上|上述)[^\n,.]{0,4}(?:有误|作废)|请忽略|忽略(?:以上|上述|上面|前)|[对互]换|对调"
    r"|(?:各项|分数?|[均都再]|全部)[^\n,.]{0,4}(?:清零|归零|[记计]零|减半|[加翻]倍|[上下]调)"
    r"|(?:^|[.\n])\s*(?:等等|不对)"
    r"|[只仅][是为][^\n]{0,6}(?:示例|例子|格式|占位)"
    r"|\bshould (?:really |actually )?be (?:a (?:bit|little) )?(?:lower|higher)"
    r"|\bon second thought|(?:^|[.\n])\s*wait\b"
    r"|\b(?:ignore|disregard|scratch|swap) (?:th|my|all|it|any)"
    r"|\b(?:just|only|merely) (?:an? )?(?:example|sample|placeholder|illustration)",
    re.IGNORECASE,
)
"""Words that take back what was said."""
_NUMBERING = re.compile(
    rf"(?:(?:^[^\S\n]*\|?[^\S\n]*|(?<=[;.,\s]))[(\[]?(?P<before>[0-9]{{1,2}})(?:[.,)\]]|\u20e3)+"
    rf"(?=[\s\[\"_-]*{_ANY_NAME}))"
    r"|^[^\S\n]*[(\[]?(?P<line>[0-9]{1,2})(?:[.,)\]](?![0-9])|\u20e3)(?=[^\S\n]*[^\s0-9])",
    re.IGNORECASE | re.MULTILINE,
)
"""List numbers: of a line, or directly before a criterion."""
_CIRCLED = re.compile(r"[①-⑳](?=\s*\S)")
_ELSE = (
    r"(?:权重|權重|比重|系数|\bweights?\b|\bweighting|满分|滿分|最高分|上限|分值|\bmaximum|\bmax\b|\bscale"
    r"|示例|样例|范例|例如|比如|\bexample|\be\.g\.|\bsample|格式|模板|\bformat|\btemplate|如果|假如|假设|\bif\b"
    r"|上一首|前一首|另一首|\bprevious|\bother poem|草稿|初评|\bdraft|平均|\baverage)"
)
"""Words behind which numbers are about something else."""
_HEADED_ELSE = re.compile(rf"{_ELSE}[^\n:=]{{0,8}}[:=]", re.IGNORECASE)
_ANNOUNCING = re.compile(
    r"最终|综上|总结|总评|以下|下面|如下|根据|按照?|给出|我的|本诗|这首诗|该诗|诗歌?|作品|各项|分项|四项|逐项|好的|所述|认为|觉得"
    r"|评分|評分|打分|得分|分数|评价|評價|评估|评审|结果|意见|我[给為为]|[我是的对對为為一二三四五六七八九十]"
    r"|\b(?:my|the|here|are|is|final|scores?|ratings?|rate|for|this|poem|as|follows|evaluation|assessment"
    r"|results?|i|would|of|it|summary|in|and|so|with|sure|below|each|criteria|criterion|by)\b",
    re.IGNORECASE,
)
"""Words that may stand before scores."""
_COLUMNS = re.compile(
    r"维度|項目|项目|指标|标准|准则|评分项|内容|理由|说明|评语|点评|序号"
    r"|\b(?:dimension|item|aspect|reasons?|comments?|notes?|explanation|justification)\b",
    re.IGNORECASE,
)
OTHER_WORDS = re.compile(r"[^\W\d_]")
_FENCE = re.compile(r"^[^\S\n]*(?:```|~~~)[\w-]*[^\S\n]*$", re.MULTILINE)
_CLAUSE_ENDS = re.compile(r"[;,.!?|]")
_HEADING = re.compile(r".*[:=]\W*|[^,.;!?]{,24}")
SOMETHING_ELSE = re.compile(_ELSE, re.IGNORECASE)
_SECOND_OPINION = re.compile(
    r"(?:或者?|改为|改成|应为|更正为|还是)\s*[零一二两三四五]"
    r"|[零一二两兩三四五六七八九]\s*分(?![之钟鐘制为明开别外])"
    r"|\b(?:or|maybe|perhaps|rather|say)\s+(?:a\s+)?(?:zero|one|two|three|four|five)\b",
    re.IGNORECASE,
)

_ASIDE = rf"[(\[](?!{_ELSE})[^()\[\]\n0-9]{{0,40}}[)\]]"
_VERB = (
    r"(?:,\s*)?(?:我?[给給]分?|得分?|打分?|[评評]分?|分数)|为|是"
    r"|\b(?:scored?|rating|rated|gets|is|of)\b"
)
_LEAD = re.compile(
    rf"(?:[\s:=|→\"'_)\]{_GONE}]|{_ASIDE}|->|=>|—|-(?=\s)|(?:{_VERB}))*", re.IGNORECASE
)  # fmt: skip
_BRACKETS = re.compile(r"\([^()]*\)|\[[^\[\]]*\]")
_GIVES = re.compile(rf"[:=|→]|{_VERB}", re.IGNORECASE)
_VALUE = re.compile(
    r"(?P<open>[(\[\"'])?\s*"
    r"(?:(?P<digit>[0-5])(?:\.0+)?(?![0-9]|\.[0-9])"
    r"|(?P<word>[零一二两兩三四五]|\b(?:zero|one|two|three|four|five)\b))"
    rf"(?P<unit>{_GAP}(?:分{_GAP})?/{_GAP}5(?:\.0+)?(?![0-9]|\.[0-9]|\s*of\b)(?:{_GAP}{_UNIT})?"
    rf"|{_GAP}{_UNIT})?(?:{_GAP}[)\]\"'])?",
    re.IGNORECASE,
)
_WORDS = {
    **{word: number for number, word in enumerate("零一二三四五")}, "两": 2, "兩": 2,
    **{w: n for n, w in enumerate(("zero", "one", "two", "three", "four", "five"))},
}  # fmt: skip
_STOP = re.compile(
    rf"\s*(?:$|\n|[,;!|)(\]\[\"{_GONE}]|\.(?![0-9])|:(?!\s*[0-9])|[-—](?=[^\S\n]+[^\s0-9])|—(?=[^\s0-9])|{_ANY_NAME})",
    re.IGNORECASE,
)
_UNIT_ENDS = re.compile(
    r"(?!\s*[-–—~～/0-9]|\s*(?:至|到|或|of\b|or\b|to\b)|[之钟鐘制为為数]"
    r"|\s*(?:半|以[上下内]|左右|上下|不到|最[高低]|[封到]顶|满|起|即|表示|代表|意味|被?扣)"
    r"|\s*(?:possible|available|max|min|at (?:most|least)"
    r"|mean|less|more|off\b|lost|deduct|each\b))",
    re.IGNORECASE,
)


class Statements(NamedTuple):
    """What an answer says about the criteria."""

    scores: dict[str, set[int]]
    """Every number that was read, by criterion."""
    is_clear: bool
    """Whether all other numbers are explained."""


def read_statements(text: str) -> Statements:
    """Read what is said of each criterion."""
    plain = _without_numbering(unexplained(text))
    if _FOREIGN.search(plain) or _HEADED_ELSE.search(plain):
        return Statements({}, is_clear=False)
    scores: defaultdict[str, set[int]] = defaultdict(set)
    rest, place = "", 0
    for mention in NAME.finditer(plain):
        found = _score_at(plain, mention.end())
        if found is None or not _is_announced(plain, mention.start(), place):
            continue
        scores[mention.lastgroup or ""].add(found[0])
        rest, place = rest + plain[place : mention.end()], found[1]
    rest += plain[place:]
    is_clear = not any(map(str.isdigit, rest)) and not _SECOND_OPINION.search(rest)
    return Statements(dict(scores), is_clear and not is_taken_back(plain))


def is_taken_back(text: str) -> bool:
    """Whether words say that what stands beside them does not count."""
    return _TAKEN_BACK.search(plain_of(text)) is not None


def is_on_another_scale(text: str) -> bool:
    """Whether a text speaks of another scale than 0 to 5."""
    return _FOREIGN.search(unexplained(text)) is not None


def _score_at(text: str, start: int) -> tuple[int, int] | None:
    """The number that directly follows a criterion, and where it ends."""
    lead = _LEAD.match(text, start)
    value = _VALUE.match(text, lead.end() if lead else start)
    if value is None or not _is_whole(text, start, value):
        return None
    number = _WORDS[value["word"].lower()] if value["word"] else int(value["digit"])
    return number, value.end()


def _is_whole(text: str, start: int, value: re.Match[str]) -> bool:
    """Whether a number ends where it seems to, and stands where a score would."""
    after = text[value.end() :]
    lead = text[start : value.start()]
    has_ratio = "/" in (value["unit"] or "")
    if value["open"] and not has_ratio and not re.search(r"[:=|→]\s*$", lead):
        return False  # behind the name in brackets it may be a maximum
    if _GONE in lead and not _GIVES.search(_BRACKETS.sub(" ", lead).rpartition(_GONE)[2]):
        return False  # it followed the other number, not the criterion
    if "\n" in lead and not re.match(r"[^\S\n]*(?:\n|$)", after):
        return False  # on another line it stands alone, or begins something else
    if value["word"] and not value["unit"]:
        ends = re.match(rf"\s*(?:$|\n|[.;|){_GONE}]|,\s*{_ANY_NAME})", after, re.IGNORECASE)
        return ends is not None and re.search(r"[:=|→—]", lead) is not None
    is_ended = _STOP.match(text, value.end()) is not None
    return is_ended or (value["unit"] is not None and bool(_UNIT_ENDS.match(text, value.end())))


def _is_announced(text: str, start: int, since: int) -> bool:
    """Whether the words before a criterion let its number be a score, and nothing else.

    Args:
        text: All of it.
        start: Where the criterion stands.
        since: Where the last number ended that was read; 0 before the first.
    """
    is_first = since == 0
    lines = text[:start].split("\n")
    line = lines[-1] if is_first else _CLAUSE_ENDS.split(text[since:start].split("\n")[-1])[-1]
    if OTHER_WORDS.search(_ANNOUNCING.sub(" ", line)) or lines[-1].lstrip().startswith(">"):
        return False
    above = heading_above(text, start) if is_first else ""
    columns = _COLUMNS.sub(" ", above) if "|" in above else above
    return not OTHER_WORDS.search(_ANNOUNCING.sub(" ", columns))


def plain_of(text: str) -> str:
    """In half width, without emphasis; blanks that go on and on are short."""
    return _BLANK.sub(lambda run: "\n\n" if "\n" in run[0] else " ", text.translate(PLAIN))


def unexplained(text: str) -> str:
    """The same, with a mark for each number that is no score."""
    return _EXPLAINED.sub(_GONE, plain_of(_FENCE.sub(" ", text)))


def _without_numbering(text: str) -> str:
    """Without list numbers, if they count from 1; else they may be anything."""
    expected = 1
    for found in _NUMBERING.finditer(text):
        number = int(found["before"] or found["line"])
        if number not in (expected, 1):
            return text
        expected = number + 1
    return _CIRCLED.sub(" ", _NUMBERING.sub(lambda found: " " * len(found[0]), text))


def heading_above(text: str, start: int) -> str:
    """The line above, if it is a heading or the head of a table."""
    lines = text[:start].split("\n")[:-1]
    above = next((line for line in reversed(lines) if OTHER_WORDS.search(line)), "")
    return above if _HEADING.fullmatch(above) or "|" in above else ""


_RANKED = (
    r"(?:排[名序列]|名次|顺序|最好到最差|best to worst|best first|\brank(?:ing|ed|s)?\b|\border\b)"
)
_ORDER_WORDS = re.compile(
    r"最终|综合|总体|我的|我|以下|如下|所以|因此|结果|结论|排[名序列]|名次|顺序|[从由]?最?好到最?差|最好[的]?[在]?前|[是的为]"
    r"|诗歌?|代号|作品|理由|点评|说明"
    r"|\b(?:my|the|final|overall|ranking|ranked|rank|ranks|order|is|as|follows|here|so|result|i|would"
    r"|poems?|label|letter|reasons?|comments?|from|best(?: to worst| first)?)\b",
    re.IGNORECASE,
)
"""Words that may stand before an order."""
_BEFORE_LABEL = re.compile(r"(?:诗|作品|\b[Pp]oem)\s*(?=[A-Z](?![A-Za-z]))")
_ABOVE = r"[\s\"'\])]*(?:>+|≻|→|->|=>)[\s\"'\[(]*"
_CHAIN = re.compile(rf"(?<![A-Za-z])[A-Z](?:{_ABOVE}[A-Z](?![A-Za-z]))++")
_LIST = re.compile(r"(?<![A-Za-z])[A-Z](?:[\s\"'\])]*,[\s\"'\[(]*[A-Z])++(?![A-Za-z])")
_ENTRY = re.compile(
    rf"^{_GAP}\|?{_GAP}(?:第|rank|no\.)?{_GAP}(?P<number>[0-9]{{1,2}}|[一二三四五六七八九十])"
    rf"(?:st|nd|rd|th)?{_GAP}[名位]?{_GAP}[.,):|\t \u20e3][\t |\[\"'(]*(?:诗|作品|poem)?{_GAP}"
    r"(?P<label>[A-Z])\b(?P<comment>.*)$",
    re.IGNORECASE | re.MULTILINE,
)
_REVERSED = re.compile(
    r"[从由]最?[差低坏弱][^.\n]{0,6}[到至]最?[好高强佳]|最[差低坏弱]的?排?在最?前|最前[^.\n]{0,6}最[差弱]"
    r"|[倒升]序|从后往前|差\s*(?:→|->|到)\s*好|末位在前|>\s*(?:表示|代表|意为|means?\b)"
    r"|\b(?:worst|weakest|lowest)[\s_]*(?:to|->|→|first)|\bfrom (?:the )?(?:worst|weakest|lowest)"
    r"|\bleast (?:to most|first)|\b(?:ascending|reversed?|increasing) (?:order|ranking|quality)"
    r"|\bfirst (?:one|poem)? ?is the (?:worst|weakest)",
    re.IGNORECASE,
)
"""Orders from worst to best."""
_NO_ORDER = re.compile(
    rf"{_REVERSED.pattern}|并列|不分[上高]下|不相上下|难分[上高伯]|\btied?\b|\bequal\b"
    r"|\bascending|\breverse",
    re.IGNORECASE,
)
"""The same, and ties."""
_FIRST = (
    r"(?:更好|更胜|最好|最佳|胜出|(?:应该?)?排第一|第一"
    r"|better(?!\s+than)|(?:the )?best|wins|first\b)"
)
_IS = r"\s*[(:,]?\s*(?:其实|是|最终|才|应|should be|is|was)*\s*"
BEST = re.compile(
    rf"(?<![A-Za-z])(?P<one>[A-Z])(?:{_IS}{_FIRST}|\s*[-–—]+\s*(?:best|最[好佳])\s*(?:$|\n))"
    r"|(?:最好的?|最佳|第一名?|首选|胜者|[更最]喜欢|\bbest|\bwinner|\bfirst place"
    r"|\bprefer(?=\s+[A-Z]\W*(?:$|\n)))[^A-Za-z\n>.,;!?]{0,6}"
    r"(?:(?:is|goes to|to)\s+)?(?P<other>[A-Z])(?![A-Za-z])"
)
WORST = re.compile(
    rf"(?<![A-Za-z])(?P<one>[A-Z])(?:{_IS}(?:最[差弱]|垫底|(?:the )?(?:worst|weakest))"
    r"|\s*[-–—]+\s*(?:worst|weakest|最[差弱])\s*(?:$|\n))"
    r"|(?:(?<![到至])最[差弱]的?|垫底的?|(?<!to )\b(?:[Ww]orst|[Ww]eakest))[^A-Za-z\n>.,;!?]{0,6}"
    r"(?:is\s+)?(?P<other>[A-Z])(?![A-Za-z])"
)
_PAIR = re.compile(
    r"(?<![A-Za-z])(?P<one>[A-Z])\s*(?:(?P<better>优于|胜[过于]|[强好高]于"
    r"|(?:is )?(?:stronger|better) than|beats"
    r"|(?:should|must) (?:be|come|rank) (?:ahead of|above|before)"
    r"|应该?排?在(?=[^\n]{0,4}[之以]?[前上]))"
    r"|(?P<worse>不如|[逊差弱低]于|(?:is )?(?:weaker|worse) than"
    r"|(?:should|must) (?:be|come|rank) (?:below|behind|after)"
    r"|应该?排?在(?=[^\n]{0,4}[之以]?[后下])))"
    r"\s*(?P<other>[A-Z])(?![A-Za-z])"
)
"""One poem set above or below another in words."""
_CHINESE_NUMBERS = {digit: number for number, digit in enumerate("一二三四五六七八九十", 1)}


class Orders(NamedTuple):
    """What an answer says about the order of poems, by their labels."""

    whole: set[tuple[str, ...]]
    """Every order of all poems that stands by itself."""
    is_clear: bool
    """Whether nothing in the answer contradicts them."""


def read_orders(text: str, labels: tuple[str, ...]) -> Orders:
    """Read every order of all labels in an answer."""
    plain = _BEFORE_LABEL.sub("", plain_of(text))
    chains = [(found, tuple(re.findall("[A-Z]", found[0]))) for found in _CHAIN.finditer(plain)]
    lists = [(found, tuple(re.findall("[A-Z]", found[0]))) for found in _LIST.finditer(plain)]
    whole = {order for found, order in chains if _stands(plain, found, must_be_named=False)}
    whole |= {order for found, order in lists if _stands(plain, found, must_be_named=True)}
    whole = {order for order in whole if sorted(order) == sorted(labels)}
    if listed := _numbered(plain, labels):
        whole.add(listed)
    said = [order for _, order in chains]
    is_clear = not _NO_ORDER.search(plain) and not is_taken_back(plain)
    is_clear = is_clear and all(_agrees(plain, order, said) for order in whole)
    return Orders(whole, is_clear)


def is_no_order(text: str) -> bool:
    """Whether words tell of ties, or of an order from worst to best."""
    return _NO_ORDER.search(plain_of(text)) is not None


def is_reversed(text: str) -> bool:
    """Whether words tell of an order from worst to best."""
    return _REVERSED.search(plain_of(text)) is not None


def fits(text: str, order: tuple[str, ...]) -> bool:
    """Whether what a text says of single poems fits an order."""
    plain = plain_of(text)
    chains = [tuple(re.findall("[A-Z]", found[0])) for found in _CHAIN.finditer(plain)]
    return _agrees(plain, order, chains)


def _stands(text: str, found: re.Match[str], *, must_be_named: bool) -> bool:
    """Whether an order is a line of its own, but for words that announce it."""
    before = text[text.rfind("\n", 0, found.start()) + 1 : found.start()]
    after = text[found.end() :].partition("\n")[0]
    if re.match(r"\s*[>≻→=]", after) or re.search(r"(?![\W_])[^\d]", _BRACKETS.sub("", after)):
        return False
    if re.search(r"[^\W_]", before):
        is_named = re.search(_RANKED, before, re.IGNORECASE) is not None
        ends = re.search(r"(?:[:=]|是|为|\bis)\W*$", before, re.IGNORECASE)
        return is_named and ends is not None and _speaks_of_order(before)
    return not must_be_named and _speaks_of_order(heading_above(text, found.start()))


def _speaks_of_order(words: str) -> bool:
    """Whether words before an order announce it, and nothing else."""
    return OTHER_WORDS.search(_ORDER_WORDS.sub(" ", words)) is None


def _numbered(text: str, labels: tuple[str, ...]) -> tuple[str, ...] | None:
    """The order of a list whose numbers count from 1."""
    entries = list(_ENTRY.finditer(text))
    numbers = [_CHINESE_NUMBERS.get(e["number"]) or int(e["number"]) for e in entries]
    order = tuple(entry["label"] for entry in entries)
    if numbers != [*range(1, len(labels) + 1)] or sorted(order) != sorted(labels):
        return None
    heading = heading_above(text, entries[0].start())
    has_figures = any(re.search(r"\|\s*[0-9]", entry["comment"]) for entry in entries)
    figures = [re.search(r"[0-9]+(?:\.[0-9]+)?", entry["comment"]) for entry in entries]
    worth = [float(figure[0]) for figure in figures if figure]
    is_rising = len(worth) == len(entries) and worth != sorted(worth, reverse=True)
    if has_figures or is_rising or not _speaks_of_order(heading):
        return None
    is_announced = re.search(_RANKED, heading + entries[0][0], re.IGNORECASE)
    has_comments = any(re.search(r"[^\W_]", entry["comment"]) for entry in entries)
    # Remarks on each poem in the order in which they were shown are no ranking.
    return None if order == labels and has_comments and not is_announced else order


def _agrees(text: str, order: Sequence[str], chains: Iterable[Sequence[str]]) -> bool:
    """Whether all that is said of single poems fits an order."""
    place = {label: number for number, label in enumerate(order)}
    pairs = [
        (found["one"], found["other"])[:: 1 if found["better"] else -1]
        for found in _PAIR.finditer(text)
    ]
    for chain in [*chains, *pairs]:
        places = [place.get(label, -1) for label in chain]
        if places != sorted(set(places)):
            return False
    best = {found["one"] or found["other"] for found in BEST.finditer(text)}
    worst = {found["one"] or found["other"] for found in WORST.finditer(text)}
    return best & place.keys() <= {order[0]} and worst & place.keys() <= {order[-1]}
