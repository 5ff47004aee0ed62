"""The viewer of GLBs: one page, of itself; and assets as notebooks show them."""

from __future__ import annotations

import html
import re
from base64 import b64decode, b64encode
from pathlib import Path

import exporters
from exporters import viewer
from exporters.report import measure_mesh
from tests.shapes import cube
from threed.runs.asset import Asset

TITLE = 'a "red" mug</script><b>'


def test_a_page_holds_all_that_it_shows() -> None:
    page = viewer.page(b"glTF and more", b"PNG", TITLE, side=300)
    assert b64encode(b"glTF and more").decode() in page
    assert b64encode(b"PNG").decode() in page
    assert viewer.SCRIPT.read_text(encoding="utf-8") in page
    assert page.count("</script>") == 1  # a title is a text
    assert f"<title>{html.escape(TITLE)}</title>" in page
    assert not re.findall(r"(?:https?:)?//[\w.-]+\.\w+|@import|url\(|src=|href=", page)
    assert "max-width: 300px" in page


def test_a_frame_holds_the_page() -> None:
    frame = viewer.frame(b"glTF", b"PNG", TITLE)
    (inner,) = re.findall(r'srcdoc="([^"]*)"', frame)
    assert html.unescape(inner) == viewer.page(b"glTF", b"PNG", TITLE)
    assert 'sandbox="allow-scripts"' in frame  # and no allow-same-origin


def test_an_asset_shows_itself(tmp_path: Path) -> None:
    exporters.save(cube(), tmp_path / "asset.glb")
    (tmp_path / "preview.png").write_bytes(b"PNG")
    asset = Asset(tmp_path, cube(), measure_mesh(cube()))
    shown = asset._repr_mimebundle_(include=None, exclude=None)
    assert shown["text/plain"] == str(tmp_path)
    assert b64decode(shown["image/png"]) == b"PNG"
    assert shown["text/html"] == viewer.frame(asset.glb.read_bytes(), b"PNG", tmp_path.name)
