"""The dashboard's files: what a browser is told about them, and what must never be in them."""

import re
from importlib import resources

import httpx
import pytest

from dspark.config.controller import ControllerSettings
from dspark.controller.api.app import ControlApi
from dspark.controller.api.tokens import Tokens
from tests.controller.served import a_controller

FILES = {
    file.name: file.read_text(encoding="utf-8")
    for file in resources.files("dspark.controller.page").iterdir()
    if file.name.endswith((".html", ".css", ".js"))
}


@pytest.fixture
def client() -> httpx.AsyncClient:
    app = ControlApi(a_controller(ControllerSettings()), Tokens(())).app()
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1")


async def test_the_page_and_all_that_it_names_are_served(client: httpx.AsyncClient) -> None:
    page = await client.get("/")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    named = set(re.findall(r'(?:href|src)="(page/[^"]+)"', page.text))
    for text in FILES.values():
        named |= {f"page/{other}" for other in re.findall(r'from "\./([^"]+)"', text)}
    assert named == {f"page/{name}" for name in FILES if name != "index.html"}
    for path in named:
        answer = await client.get(f"/{path}")
        assert answer.status_code == 200, path
        kind = "text/css" if path.endswith(".css") else "text/javascript"
        assert answer.headers["content-type"] == f"{kind}; charset=utf-8"
    await client.aclose()


async def test_a_browser_may_load_and_call_nothing_but_this_origin(
    client: httpx.AsyncClient,
) -> None:
    for path in ("/", "/page/main.js"):
        headers = (await client.get(path)).headers
        policy = dict(
            part.strip().split(" ", 1) for part in headers["content-security-policy"].split(";")
        )
        assert policy["default-src"] == "'none'"
        assert {policy[name] for name in ("script-src", "style-src", "connect-src")} == {"'self'"}
        assert policy["frame-ancestors"] == policy["base-uri"] == "'none'"
        assert headers["x-content-type-options"] == "nosniff"
    assert (await client.get("/page/../loop.py")).status_code == 404
    await client.aclose()


@pytest.mark.parametrize("name", sorted(FILES))
def test_no_file_needs_the_network_or_makes_markup_of_data(name: str) -> None:
    text = FILES[name]
    outside = set(re.findall(r"https?://[^\s\"'`]+", text)) - {"http://www.w3.org/2000/svg"}
    assert not outside
    assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|DOMParser", text)
    assert not re.search(r"\beval\b|new Function|localStorage|document\.cookie", text)
    assert not re.search(r"\son\w+=|style=|<script>|javascript:", text), "the policy forbids it"
