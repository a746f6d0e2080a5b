"""Zip files within bounds."""

import io
import zipfile

import pytest

from tests.trainer.data_set.zip_files import zip_of
from verse.poem_files.reading import ContentError
from verse_trainer.data_set import archives
from verse_trainer.data_set.archives import Archive, ByteBudget, leads_out, refuse_entities


def zipped(**files: bytes) -> bytes:
    return zip_of(files)


def test_members_are_read_by_name() -> None:
    archive = Archive(zip_of({"诗/河.txt": b"a", "b.txt": b"bb"}))
    assert list(archive) == ["诗/河.txt", "b.txt"]
    assert archive.read("b.txt") == b"bb"
    assert "c.txt" not in archive


def test_a_name_in_the_encoding_of_chinese_windows_is_read() -> None:
    # zipfile marks any name beyond ASCII as UTF-8, which Windows' own zip folders do not: a name of
    # the same length is put in place of one without the mark.
    content = zip_of({"xxxx.txt": b"a"}).replace(b"xxxx", "渡口".encode("gbk"))
    (name,) = Archive(content)
    assert name == "渡口.txt"


def test_unpacked_it_may_not_grow_beyond_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    content = zipped(a=bytes(3 << 20))
    assert len(content) < 10_000
    with pytest.raises(ContentError, match="larger than 1 MB"):
        Archive(content, ByteBudget(1 << 20)).read("a")
    two = Archive(zipped(a=bytes(700), b=bytes(700)), ByteBudget(1000))
    assert len(two.read("a")) == 700
    with pytest.raises(ContentError, match="more than is read"):
        two.read("b")  # together they are
    monkeypatch.setattr(archives, "MAX_MEMBERS", 2)
    with pytest.raises(ContentError, match="it holds 3 files"):
        Archive(zipped(a=b"", b=b"", c=b""))


def test_a_size_that_is_a_lie_helps_nobody() -> None:
    content = zipped(a=bytes(3000))
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        info = archive.getinfo("a")
    lied = content.replace(info.file_size.to_bytes(4, "little"), (10).to_bytes(4, "little"))
    with pytest.raises(ContentError):
        Archive(lied, ByteBudget(1000)).check(max_bytes_each=1000)


NAMELESS = zip_of({"x": b""}).replace(b"x", b"\0")
TWO = zipped(a=b"x" * 5000, b=b"y" * 5000)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (TWO[: len(TWO) // 2], "broken or was not downloaded whole"),
        (TWO.replace(b"K", b"\0", 1), "cannot be unpacked"),
        (NAMELESS, "broken or was not downloaded whole"),
    ],
)
def test_a_broken_archive_is_one_sentence(content: bytes, problem: str) -> None:
    with pytest.raises(ContentError, match=problem):
        Archive(content).check(max_bytes_each=1 << 20)


def test_a_password_is_asked_of_nobody() -> None:
    content = bytearray(zipped(a=b"x"))
    content[6] |= 1  # the flags of the local header, and of the directory
    content[content.index(b"PK\x01\x02") + 8] |= 1
    with pytest.raises(ContentError, match="protected by a password"):
        Archive(bytes(content)).read("a")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_xml_with_entities_of_its_own_is_refused(encoding: str) -> None:
    harmless = '<!DOCTYPE a [<!ENTITY b "水">]><a>&b;</a>'
    with pytest.raises(ContentError, match="declares entities"):
        refuse_entities(harmless.encode(encoding))
    with pytest.raises(ContentError, match="declares entities"):
        Archive(zip_of({"a.xml": harmless.encode(encoding)})).check(max_bytes_each=1000)
    refuse_entities("<!DOCTYPE html><a>&nbsp;</a>".encode(encoding))


@pytest.mark.parametrize(
    ("name", "is_out"),
    [
        ("a/b.txt", False),
        ("河..txt", False),
        ("../a.txt", True),
        ("a/../../b", True),
        ("/etc/passwd", True),
        ("C:\\a.txt", True),
        ("..\\a.txt", True),
        ("\\a.txt", True),
    ],
)
def test_a_name_that_leads_out_of_its_folder_is_known(name: str, is_out: bool) -> None:
    assert leads_out(name) is is_out
