"""Which documents `verse data` reads besides text and JSON, and which files of a folder it leaves.

`read_document` is the parser that `verse.poem_files` is given: it tells by a file's first bytes, by
what is in a zip file, and where bytes say nothing by the suffix. What Verse does not read is
refused with what to do about it.

A folder holds more than poems. Code, configuration, licences, READMEs, word lists, prompts and
logs are left out by their names (`kind_by_name`), and text by its look (`kind_by_look`), too. A
file that is named by itself is never left out for its name.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePath

from verse.poem_files import DocumentParser, Found, LeftOut, ReadOptions, Refused, read_content
from verse.poem_files.reading import ContentError
from verse.poem_files.text_files import read_text
from verse_trainer.data_set.archives import (
    ZIP_MARKS,
    Archive,
    ByteBudget,
    epub_text,
    is_epub,
    leads_out,
)
from verse_trainer.data_set.chats import read_chat
from verse_trainer.data_set.tables import TABLE_SUFFIXES, read_table
from verse_trainer.data_set.web_pages import html_text, html_title, looks_like_html
from verse_trainer.data_set.word_files import (
    docx_text,
    is_docx,
    is_rtf,
    refuse_old_office,
    rtf_text,
)

WHOLE_FILE = 0
"""In place of a line: the file was left out whole, for its name or its look."""
_PAGE_SUFFIXES = (".html", ".htm", ".xhtml")
_TEXT_SUFFIXES = ("", ".txt", ".text", ".md", ".markdown")
_ROW_SUFFIXES = (".jsonl", ".json", ".ndjson", ".csv", ".tsv", ".parquet")
_DOCUMENT_SUFFIXES = (".docx", ".rtf", ".epub", ".zip", ".ipynb")
_FOREIGN = ".doc .wps .odt .pages .pdf .xls .xlsx .mobi .azw3"
_FOREIGN_SUFFIXES = tuple(_FOREIGN.split())
_READ = frozenset(
    (
        *(*_TEXT_SUFFIXES, *_PAGE_SUFFIXES, *TABLE_SUFFIXES),
        *(*_ROW_SUFFIXES, *_DOCUMENT_SUFFIXES, *_FOREIGN_SUFFIXES),
    )
)
"""Files that are looked into; the last of them only to say what to do."""
_MAX_NESTING = 2
_MAX_UNPACKED = 1 << 30
_HEAD_BYTES = 4096
_TITLE_END = re.compile(r"\s+[-–—|_｜]\s*|[|｜_]")
_PDF = "a PDF does not say where its lines end; save the poems as .docx or as text"
_LIBRARIES = {"docx": "documents", "lxml": "documents", "striprtf": "documents"}
_OTHER_ZIPS = (
    ("xl/workbook.xml", "it is a spreadsheet; save it as CSV"),
    ("ppt/presentation.xml", "it is a presentation; copy the poems into a text file"),
    ("content.xml", "it is of OpenOffice or LibreOffice; save it as .docx"),
    ("Index/Document.iwa", "it is of Pages; export it as .docx"),
)

_SKIPPED_FOLDERS = frozenset(
    ("__MACOSX", "__pycache__", "node_modules", "site-packages", "venv", "env", "dist", "build")
)
_SUFFIX_KINDS = {
    "code": "py pyi js mjs ts jsx tsx java c h cc cpp hpp cs go rs rb php sh bash zsh bat ps1 sql "
    "css scss less vue swift kt m lua r pl jl scala dart",
    "configuration": "yaml yml toml ini cfg conf env lock properties xml plist in sum mod",
    "a log": "log out err",
    "pictures, sound or video": "png jpg jpeg gif bmp svg webp heic tif tiff ico mp3 wav m4a flac "
    "ogg mp4 mov avi mkv ttf otf woff woff2",
    "weights of a model": "safetensors gguf bin pt pth npz npy onnx ckpt h5 model",
}
_KIND_OF_SUFFIX = {
    f".{suffix}": kind for kind, suffixes in _SUFFIX_KINDS.items() for suffix in suffixes.split()
}
_NAME_KINDS = {
    "a licence": r"licen[cs]e|copying|notice|许可|许可证|版权声明|eula|unlicense",
    "a README": r"read[-_ ]?me|changelog|changes|history|contributing|authors|code_of_conduct|"
    r"security|todo|install|说明|使用说明|自述|读我|更新日志",
    "a list of words": r"words?|word[-_ ]?list|themes?|topics?|titles|vocab(?:ulary)?|keywords?|"
    r"stop[-_ ]?words?|dictionary|merges|词表|词库|停用词|关键词",
    "a prompt": r"(?:system[-_ ]?)?prompts?(?:[-_ ]?(?:variants?|templates?))?|提示词|系统提示",
    "a log": r"logs?|(?:train|training|run|error|debug)[-_ ]?logs?|nohup|日志文件",
    "configuration": r"requirements(?:[-_]\w+)?|constraints|robots|cmakelists|makefile|dockerfile|"
    r"package(?:-lock)?|tsconfig|config|generation_config|adapter_config|tokenizer(?:_config)?|"
    r"special_tokens_map|added_tokens|preprocessor_config|.*\.safetensors\.index|split|run|"
    r"dataset_info|manifest|composer|settings",
    "rows to validate with": r"valid|validation|val|test|eval|dev",
}
_NAMES = tuple(
    (kind, re.compile(rf"(?:{names})(?:[-_. ]?(?:zh|en|cn|chinese|english))?", re.IGNORECASE))
    for kind, names in _NAME_KINDS.items()
)
_ONLY_ROWS = "rows to validate with"

_HAN = re.compile(r"[\u3400-\u9fff]")
_LICENCE = re.compile(
    r"Permission is hereby granted|Apache License|GNU (?:LESSER |AFFERO )?GENERAL PUBLIC LICENSE|"
    r"Redistribution and use in source|Mozilla Public License|Creative Commons .{0,60}License",
    re.IGNORECASE,
)
_LOG_LINE = re.compile(
    r"\s*(?:\[?\d{4}-\d\d-\d\d[ T]\d\d:\d\d|\[?\d\d:\d\d:\d\d|"
    r"\W?(?:INFO|DEBUG|WARN(?:ING)?|ERROR)\b|(?:Iter|Iteration|Epoch|Step)[ :]\s*\d+|"
    r"Traceback|File \")",
    re.IGNORECASE,
)
_CODE_LINE = re.compile(
    r"\s*(?:(?:import|from|def|class|function|var|let|const|public|private|static|async|return|elif|"
    r"package|using)\s+\S.*|(?:if|for|while|switch)\b.*[:{(]\s*|#include.*|@\w+.*|//.*|/\*.*|</?\w+.*>|"
    r".*[{}]|.*[=()].*;|\w+(?:\.\w+)*\(.*\)|[\w.\[\]'\"]+\s*=\s*\S.*|[)\]}],?)\s*"
)
_CONFIG_LINE = re.compile(r"\s*(?:[\w.\-]+\s*[:=](?:\s.*|\S*)|-\s+[\w.\-]+.*|\[[\w. \-]+\]|#.*)")
_README = re.compile(
    r"^```|\[!\[|^[ \t]*(?:pip3? install|npm install|git clone|python3? \S+\.py|uv (?:sync|run))|"
    r"^#+\s*(?:install|usage|licen[cs]e|quick ?start|requirements|getting started|安装|用法|使用|"
    r"许可|依赖)",
    re.IGNORECASE | re.MULTILINE,
)
_PROMPT = re.compile(
    r"\{(?:theme|title|topic|keywords?|input|text|主题|题目|标题)\}|<\|im_start\|>|"
    r"\byou are an?\b.{0,200}\b(?:poet|assistant|model)|\byou will be given\b",
    re.IGNORECASE,
)
_ROLE = re.compile(r"^[ \t]*你是.{0,20}(?:诗人|助手|助理|模型|专家|AI)", re.MULTILINE)
_DEMAND = re.compile(r"请|要求|输出|字数|格式")
_MIN_LIST_LINES = 30
_MIN_LIST_WORDS = 20
_MAX_WORD = 4
_LINE_HEAD = 300
_LOOKED_AT = 100_000
"""Characters of a line and of a text that its look is told by."""


def read_document(content: bytes, path: Path, options: ReadOptions) -> list[Found] | None:
    """The poems of a document, a table or a zip file; None if the file is none of these.

    Raises:
        ContentError: it is broken, locked, too large, or of a kind that Verse does not read.
    """
    return _read(content, path, options, ByteBudget(_MAX_UNPACKED), 0)


def is_read(path: PurePath) -> bool:
    """Whether a file of this name, found in a folder, is looked into."""
    return path.suffix.lower() in _READ


def is_hidden(path: PurePath) -> bool:
    """Whether a file, by its path below a folder, is a program's own."""
    return any(part.startswith(".") or part in _SKIPPED_FOLDERS for part in path.parts)


def kind_by_name(path: PurePath) -> str:
    """What a file in a folder is, if its name says that it holds no poems; else empty."""
    suffix = path.suffix.lower()
    if suffix in _KIND_OF_SUFFIX:
        return _KIND_OF_SUFFIX[suffix]
    if suffix not in _READ:
        return "of a kind that Verse does not read"
    for kind, names in _NAMES:
        is_row_file = kind != _ONLY_ROWS or suffix in _ROW_SUFFIXES
        if is_row_file and names.fullmatch(path.stem):
            return kind
    return ""


def kind_by_look(text: str) -> str:
    """What a text is, if it does not look like poems; else empty."""
    text = text[:_LOOKED_AT]
    lines = [line for line in text.split("\n") if line.strip()]
    if _LICENCE.search(text[:_HEAD_BYTES]):
        return "a licence"
    if len(_README.findall(text)) > 1:
        return "a README"
    if _PROMPT.search(text) or (_ROLE.search(text) and _DEMAND.search(text)):
        return "a prompt"
    if _share(_LOG_LINE, lines) >= 0.5 and len(lines) > 1:
        return "a log"
    is_foreign = 3 * len(_HAN.findall(text)) < len(re.findall(r"\w", text))
    if is_foreign and len(lines) > 2 and _share(_CONFIG_LINE, lines) >= 0.7:
        return "configuration"
    if is_foreign and len(lines) > 2 and _share(_CODE_LINE, lines) >= 0.5:
        return "code"
    return "a list of words" if _is_word_list(text, lines) else ""


def _share(pattern: re.Pattern[str], lines: Sequence[str]) -> float:
    return sum(bool(pattern.match(line[:_LINE_HEAD])) for line in lines) / max(1, len(lines))


def _is_word_list(text: str, lines: Sequence[str]) -> bool:
    """Many short words, one to a line with no gaps, or in a row, and hardly one twice."""
    words = re.split(r"[\s,，、;；]+", text.strip())
    is_short = sum(map(len, words)) <= _MAX_WORD * len(words)
    is_varied = 10 * len(set(words)) >= 9 * len(words)
    is_column = len(lines) >= _MIN_LIST_LINES and "\n\n" not in text and len(words) == len(lines)
    is_row = len(words) >= _MIN_LIST_WORDS * len(lines)
    return is_short and is_varied and (is_column or is_row)


def _read(
    content: bytes, path: Path, options: ReadOptions, budget: ByteBudget, depth: int
) -> list[Found] | None:
    try:
        refuse_old_office(content)
        if content.startswith(b"%PDF"):
            raise ContentError(_PDF)
        if content[60:68] == b"BOOKMOBI":
            raise ContentError("it is a Kindle book; convert it to EPUB")
        if content.startswith(ZIP_MARKS):
            return _read_zip(content, path, options, budget, depth)
        if is_rtf(content):
            return read_text(rtf_text(content), path, kind="poems in RTF")
        if (table := read_table(content, path, options)) is not None:
            return table
        if _is_page(content, path):
            return _read_page(content, path, options)
        return read_chat(content, path, options)
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] not in _LIBRARIES:
            raise
        raise ContentError(
            "reading it needs one more part; in the folder of Verse run: "
            "pip install -e '.[documents]'"
        ) from error


def _is_page(content: bytes, path: Path) -> bool:
    if path.suffix.lower() in _PAGE_SUFFIXES:
        return True
    return looks_like_html(content[:_HEAD_BYTES].decode("utf-8", "replace"))


def _read_page(content: bytes, path: Path, options: ReadOptions) -> list[Found]:
    text = html_text(content, options.encoding)
    title = _TITLE_END.split(html_title(content, options.encoding))[0].strip()
    return read_text(text, path, kind="poems in HTML", name=title)


def _read_zip(
    content: bytes, path: Path, options: ReadOptions, budget: ByteBudget, depth: int
) -> list[Found]:
    archive = Archive(content, budget)
    if is_docx(archive):
        return read_text(docx_text(content, archive), path, kind="poems in Word")
    if is_epub(archive):
        return read_text(epub_text(archive), path, kind="poems in EPUB")
    for name, problem in _OTHER_ZIPS:
        if name in archive:
            raise ContentError(problem)
    if depth >= _MAX_NESTING:
        raise ContentError("it is a zip file in a zip file in another; unpack it first")
    found = [
        piece
        for name in sorted(archive)
        for piece in _member(archive, name, path, options, budget, depth)
    ]
    if not found:
        raise ContentError("nothing in the zip file can hold poems")
    return found


def _member(
    archive: Archive, name: str, path: Path, options: ReadOptions, budget: ByteBudget, depth: int
) -> Iterator[Found]:
    """What one file of a zip file holds; that one is broken is no matter to the rest."""
    inner = PurePath(name.replace("\\", "/"))
    file = path / inner
    if leads_out(name):
        reason = "under a name that leads out of the zip file"
        yield LeftOut(path=path / inner.name, line=WHOLE_FILE, reason=reason)
    elif is_hidden(inner):
        return
    elif kind := kind_by_name(inner):
        yield LeftOut(path=file, line=WHOLE_FILE, reason=kind)
    else:
        try:
            content = archive.read(name)
        except ContentError as error:
            yield Refused(path=file, line=1, problem=str(error))
            return
        yield from read_content(content, file, options, [_within(budget, depth + 1)])


def _within(budget: ByteBudget, depth: int) -> DocumentParser:
    """The parser for what is inside of a zip file."""

    def parse(content: bytes, path: Path, options: ReadOptions) -> list[Found] | None:
        return _read(content, path, options, budget, depth)

    return parse
