"""The page is served as it is, to anybody, with headers that let it do little."""

import re

import pytest
from fake_engine import FakeEngine
from wire import Client, Connect

from verse_server.config import ServerConfig


def test_the_page_and_its_files_need_no_key(engine: FakeEngine, connect: Connect) -> None:
    client = connect(engine, ServerConfig(api_key="k"))
    page = client.get("/")
    assert page.status_code == 200
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    names = re.findall(r'(?:src|href)="/page/([^"]+)"', page.text)
    assert {"page.js", "page.css"} <= set(names)
    for name in names:
        assert client.get(f"/page/{name}").status_code == 200, name
    assert client.get("/v1/models").status_code == 401


def test_nothing_comes_from_elsewhere_and_no_text_becomes_markup(client: Client) -> None:
    page = client.get("/")
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "require-trusted-types-for 'script'" in policy
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert "<script>" not in page.text
    assert " style=" not in page.text
    assert not re.search(r"\son\w+=", page.text)


def test_all_its_modules_import_only_each_other(client: Client) -> None:
    waiting, seen = ["page.js"], set[str]()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        module = client.get(f"/page/{name}")
        assert module.status_code == 200, name
        assert module.headers["content-type"] == "text/javascript; charset=utf-8"
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", module.text
        )
        assert not re.search(r"https?://(?!www\.w3\.org/)", module.text), name
        waiting += re.findall(r'from "\./([^"]+)"', module.text)
    assert len(seen) > 5


def test_what_is_not_part_of_it_is_an_unknown_url(client: Client) -> None:
    for path in ("/page/", "/page/nope.js", "/page/..%2Fapp.py", "/page/__init__.py", "/page.js"):
        answer = client.get(path)
        assert answer.status_code == 404, path
        assert answer.json()["error"]["code"] == "unknown_url"


def test_a_file_that_has_not_changed_is_not_sent_again(client: Client) -> None:
    first = client.get("/")
    again = client.get("/", headers={"if-none-match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert client.get("/", headers={"if-none-match": '"other"'}).status_code == 200


@pytest.mark.parametrize("path", ["/", "/page/page.css"])
def test_head_answers_as_get_does(client: Client, path: str) -> None:
    assert client.head(path).headers["etag"] == client.get(path).headers["etag"]


def test_the_page_is_no_part_of_the_api(client: Client) -> None:
    paths = client.get("/schema/openapi.json").json()["paths"]
    assert not [path for path in paths if path == "/" or path.startswith("/page")]
