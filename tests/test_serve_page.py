"""The page: whole, of ours alone, and to be had without a token, which it asks for itself."""

from __future__ import annotations

import re
from pathlib import Path

from tests.serving import client_of, desk_in
from threed.apps.serve import site
from threed.apps.serve.admit import OFFERED, SENT

FILES = sorted([*site.HERE.iterdir(), *site.ELSEWHERE.values()])


def test_the_page_and_its_parts_come_without_a_token(tmp_path: Path) -> None:
    client = client_of(desk_in(tmp_path), "a-token-of-24-characters")
    page = client.get("/")
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'self'" in page.headers["content-security-policy"]
    assert {path.name for path in FILES} == {"index.html", *site.KINDS}
    own = {path.name: path.read_bytes() for path in FILES}
    for name, kind in site.KINDS.items():
        part = client.get(f"/page/{name}")
        assert part.headers["content-type"].startswith(kind)
        assert part.content == own[name]
    for name in ("index.html", "..%2fapp.py", "none.js", "main.js%00"):
        assert client.get(f"/page/{name}").status_code in (401, 404)


def test_the_form_has_a_field_for_every_kind_of_file() -> None:
    form = (site.HERE / "form.js").read_text(encoding="utf-8")
    for kind in (*SENT, *OFFERED, "planner", "region", "subject"):
        assert f'"{kind}"' in form


def test_the_page_names_nothing_but_its_own_parts_and_ids() -> None:
    texts = {path.name: path.read_text(encoding="utf-8") for path in FILES}
    whole = "\n".join(texts.values())
    assert not re.findall(r"(?:https?:)?//[\w.-]+\.\w+|@import|url\(", whole)
    assert set(re.findall(r"/page/([\w.]+)", whole)) <= site.KINDS.keys()
    ids = set(re.findall(r'id="([\w-]+)"', texts["index.html"]))
    made = set(re.findall(r'\bid: "([\w-]+)"|field\("(\w+)"', texts["main.js"]))
    known = ids | {name for pair in made for name in pair}
    assert set(re.findall(r'\$\("([\w-]+)"\)', whole)) <= known
    assert "style=" not in whole  # which the page's own rules forbid
    assert "innerHTML" not in whole  # prompts are text
