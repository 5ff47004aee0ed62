"""Who may import whom, what an import costs, and that nobody else's packages are taken for ours."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from threed import check_siblings

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("threed", "guidance", "renderers", "exporters", "configs")

# part -> the parts it may import besides itself; everybody may import core
ARROWS: dict[str, set[str]] = {
    "core": set(),
    "cameras": set(),
    "renderers": {"cameras"},
    "scenes": {"renderers", "cameras"},
    "exporters": {"renderers", "cameras"},  # turntables and baking are renders
    "diffusion": {"cameras"},
    "guidance": {"diffusion", "cameras"},
    "systems": {"diffusion", "cameras"},
    "assets": {"exporters", "scenes", "renderers", "cameras"},
    "settings": set(),
    "config": {"settings", "scenes", "assets"},
    "run": {"config"},
    "given": {"exporters", "scenes"},
    "stages": {"given", "config", "assets", "exporters", "scenes"},
    "keeper": {"stages", "run", "config", "guidance", "cameras"},
    "memory": set(),
    "plan": {"memory", "config", "scenes", "diffusion", "renderers"},
    "optimise": {"keeper", "memory", "stages", "run", "config", "scenes", "renderers", "guidance",
                 "cameras"},
    "steered": {"config", "guidance", "diffusion", "systems", "cameras"},
    "editing": {"config", "given", "guidance", "diffusion", "systems", "renderers", "cameras"},
    "guides": {"config", "given", "guidance", "diffusion", "steered", "editing"},
    "choice": {"run", "stages", "diffusion", "cameras"},
    "pipeline": {"optimise", "choice", "steered", "editing", "plan", "memory", "stages", "given",
                 "guides", "keeper", "run", "config", "assets", "guidance", "diffusion", "systems",
                 "toybox", "cameras", "version"},
    "toybox": {"renderers", "diffusion", "cameras"},
    "doctor": {"renderers", "diffusion", "version"},
    "cli": {"cli_show", "cli_lists", "cli_files", "doctor", "pipeline", "keeper", "run", "config",
            "settings", "assets", "exporters", "guidance", "diffusion", "systems", "toybox",
            "cameras"},
    "version": set(),
    "configs": set(),
}  # fmt: skip
# commands of toybox use whatever a user could
FREE = {"toybox.cli", "toybox.evaluate"}


def part_of(module: str) -> str:
    """The part of the architecture that a module of ours belongs to."""
    top, _, rest = module.partition(".")
    if top != "threed":
        return top
    name = rest.partition(".")[0] or "version"
    return "cli" if name.startswith("cli") else name


def imports(path: Path) -> Iterator[str]:
    """Modules of ours that a file imports, anywhere in it, except for type checkers only."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    skipped = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            module = node.module or ""
            # "from threed import cameras" names a module, "from threed import __version__" does not
            names = [f"{module}.{a.name}" if (ROOT / module.replace(".", "/") / f"{a.name}.py")
                     .exists() else module for a in node.names]  # fmt: skip
        else:
            continue
        yield from (name for name in names if name.partition(".")[0] in PACKAGES)


def files() -> list[Path]:
    """Every source file of ours."""
    return sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_only_the_arrows_of_the_architecture_are_imported(path: Path) -> None:
    module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    if module.removeprefix("threed.") in FREE:
        return
    part = part_of(module)
    allowed = ARROWS[part] | {part, "core"}
    wrong = sorted({name for name in imports(path) if part_of(name) not in allowed})
    assert not wrong, f"{module} ({part}) may import {sorted(allowed)}, not {wrong}"


def test_nobody_imports_the_commands() -> None:
    commands = {f"{name.replace('.', '/')}.py" for name in FREE}
    users = [
        path
        for path in files()
        if any(part_of(name) == "cli" for name in imports(path))
        and not path.name.startswith("cli")
        and str(path.relative_to(ROOT / "threed")) not in commands
    ]
    assert users == []


def test_arrows_have_no_circles() -> None:
    def below(part: str, seen: tuple[str, ...]) -> None:
        assert part not in seen, f"a circle: {' -> '.join([*seen, part])}"
        for other in ARROWS.get(part, ()):
            below(other, (*seen, part))

    for part in ARROWS:
        below(part, ())


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
        "import sys, threed, threed.cli\n"
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
