"""Who may import whom, what an import costs, and that nobody else's packages are taken for ours."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from threed import check_siblings

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("threed", "guidance", "renderers", "exporters", "configs")

# floor -> the floors that it may import besides itself
FLOORS: dict[str, set[str]] = {
    "core": set(),
    "configs": set(),
    "settings": {"core", "configs"},
    "renderers": {"core"},
    "exporters": {"core", "renderers"},
    "scenes": {"core", "settings", "renderers"},
    "diffusion": {"core", "settings"},
    "learning": {"core", "settings", "diffusion"},
    "guidance": {"core", "settings", "diffusion"},
    "systems": {"core", "settings", "diffusion", "learning"},
    "toybox": {"core", "settings", "renderers", "diffusion", "learning"},
    "runs": {
        "core", "settings", "renderers", "exporters", "scenes", "diffusion", "learning",
        "guidance", "systems", "toybox", "version",
    },
    "queue": {"core", "settings", "systems", "runs", "version"},
    "version": {"core", "settings", "diffusion", "runs"},
}  # fmt: skip
FLOORS["apps"] = set(FLOORS)


def module_of(path: Path) -> str:
    """The dotted name of a source file."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def floor_of(module: str) -> str:
    """The floor of the house that a module is on; "version" for threed/__init__.py."""
    top, _, rest = module.partition(".")
    return top if top != "threed" else rest.partition(".")[0] or "version"


def files() -> list[Path]:
    """Every source file of ours."""
    return sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def is_module(name: str) -> bool:
    """Whether a dotted name is a file or a package of ours."""
    place = ROOT / name.replace(".", "/")
    return place.with_suffix(".py").is_file() or (place / "__init__.py").is_file()


@cache
def imports(path: Path) -> frozenset[str]:
    """The modules of ours that a file imports, anywhere in it, but for type checkers only."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return frozenset(
        name for node in walked(tree) for name in named(node, path) if name != module_of(path)
    )


def walked(tree: ast.AST) -> Iterator[ast.AST]:
    """Every node of a file that is not for type checkers only."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        yield node
        yield from walked(node)


def named(node: ast.AST, path: Path) -> Iterator[str]:
    """The modules of ours that an import names."""
    names = []
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
        assert node.level == 0, f"{path}: relative import"
        module = node.module or ""
        for alias in node.names:
            inner = f"{module}.{alias.name}"
            names.append(inner if is_module(inner) else module)
    yield from (name for name in names if name.partition(".")[0] in PACKAGES)


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_down_the_floors_only(path: Path) -> None:
    floor = floor_of(module_of(path))
    allowed = FLOORS[floor] | {floor}
    wrong = sorted(name for name in imports(path) if floor_of(name) not in allowed)
    assert not wrong, f"{path} ({floor}) may import {sorted(allowed)}, not {wrong}"


def test_no_file_imports_itself_by_way_of_others() -> None:
    graph = {module_of(path): imports(path) for path in files()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"a circle of imports: {' -> '.join(error.args[1])}")


def test_the_circle_that_a_table_could_not_see_would_be_found() -> None:
    graph = {"backbone": {"flow"}, "flow": {"score"}, "score": {"backbone"}}
    with pytest.raises(CycleError):
        TopologicalSorter(graph).prepare()


def test_only_apps_the_drawing_of_examples_and_the_body_of_toys_know_toybox() -> None:
    users = {
        module_of(path)
        for path in files()
        if any(floor_of(name) == "toybox" for name in imports(path))
    }
    assert {name for name in users if floor_of(name) not in ("apps", "toybox")} == {
        "threed.runs.bodies", "threed.runs.train"
    }  # fmt: skip


def run(code: str) -> str:
    """What a fresh Python prints."""
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_importing_threed_and_its_commands_loads_nothing_heavy() -> None:
    heavy = ["torch", "diffusers", "transformers", "numba", "numpy", "trimesh", "yaml"]
    code = (
        "import sys, threed, threed.apps.cli.main\n"
        f"print([name for name in {heavy} if name in sys.modules])\n"
        "import guidance, renderers, exporters, configs\n"
        f"print([name for name in {heavy} if name in sys.modules])\n"
    )
    assert run(code) == "[]\n[]"


def test_the_public_names_exist() -> None:
    import threed

    for name in threed.__all__:
        assert getattr(threed, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'generated'"):
        threed.generated  # noqa: B018


def test_a_package_of_the_same_name_is_named(tmp_path: Path) -> None:
    check_siblings(ROOT)
    intruder = tmp_path / "guidance"
    intruder.mkdir()
    (intruder / "__init__.py").write_text("raise SystemExit('never imported')")
    code = f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(ROOT)!r}]; import threed"
    result = subprocess.run(
        [sys.executable, "-S", "-c", code], capture_output=True, text=True, check=False,
        cwd=tmp_path,
    )  # fmt: skip
    assert result.returncode == 1
    assert f"ImportError: threed needs its own package 'guidance' at {ROOT}" in result.stderr
    assert f"Python found {intruder}" in result.stderr
    assert "pip uninstall guidance" in result.stderr
    assert "never imported" not in result.stderr
