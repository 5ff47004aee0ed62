"""The notebook of the docs runs, and shows its assets."""

from __future__ import annotations

from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).resolve().parent.parent / "docs" / "notebooks" / "first.ipynb"


@pytest.mark.filterwarnings("ignore")
def test_the_first_notebook_runs(tmp_path: Path) -> None:
    nbclient, nbformat, _ = (
        pytest.importorskip(name, reason="needs nbclient and ipykernel")
        for name in ("nbclient", "nbformat", "ipykernel")
    )
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert len(notebook.cells) == 10
    assert not any(cell.get("outputs") for cell in notebook.cells)
    nbclient.NotebookClient(
        notebook,
        timeout=600,
        startup_timeout=600,
        kernel_name="python3",
        resources={"metadata": {"path": tmp_path}},
    ).execute()
    mug, said, blue = (
        output.data for cell in notebook.cells for output in cell.get("outputs", ())
        if output.output_type == "execute_result"
    )  # fmt: skip
    assert (mug["text/plain"], blue["text/plain"]) == ("mug", "blue")
    for data in (mug, blue):
        assert data["text/html"].startswith("<iframe srcdoc=")
        assert data["image/png"].startswith("iVBOR")  # PNG in base64
    assert "faces, closed: True; open mug/asset.glb in Blender" in said["text/plain"]
