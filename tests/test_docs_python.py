"""The snippets of docs/python.md run, one after the other."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

PAGE = Path(__file__).resolve().parent.parent / "docs" / "python.md"


@pytest.mark.filterwarnings("ignore")
def test_the_snippets_of_the_page_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    snippets = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(snippets) == 7
    names: dict[str, Any] = {}
    for number, snippet in enumerate(snippets):
        exec(compile(snippet, f"snippet {number} of {PAGE.name}", "exec"), names)
    said = capsys.readouterr().out
    assert "did you mean 'steps'?" in said
    for name in ("mug/asset.glb", "blue/asset.glb", "green/asset.glb", "pair.png",
                 "pictures/picture.png", "edges/settings.json"):  # fmt: skip
        assert (tmp_path / name).stat().st_size > 0
