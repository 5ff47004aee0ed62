"""Count the habits of the code and set them beside their aims.

    python benchmarks/habits.py [--check] [--json FILE] [--root DIR]

The source is counted as it lies in the working tree, by `ast` and `tokenize`; none of it is
imported. A line of code holds a token of code: blank lines and comments do not count, nor do
docstrings and other strings that are statements. A function's body is its lines of code without
decorators and signature; a function inside it counts in it, and on its own too. Below the table
stands what misses an aim. `--check` ends with status 1 where one is missed.
"""

from __future__ import annotations

import argparse
import ast
import io
import json
import math
import re
import sys
import tokenize
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("threed", "guidance", "renderers", "exporters")
TOYBOX = "threed/toybox/"
KERNELS = "renderers/kernels/"  # private functions there may have many parameters
# decorators that compile a function: numba's, Triton's, and those of renderers/kernels/jit.py
COMPILERS = {
    "njit",
    "jit",
    "vectorize",
    "intrinsic",
    "compiled",
    "serial",
    "exact",
    "inlined",
    "inlined_exact",
}
BLANK = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENCODING,
    tokenize.ENDMARKER,
}
SHAPE = re.compile(r"\[[^\[\]]*\]|\bscalars?\b")
BY_NAME = re.compile(r"(Mapping|dict)\[str, Tensor\]")  # such as a state: each has its own shape
HARMLESS = {"module", "ignore_missing_imports", "follow_imports"}  # keys of mypy's overrides

AnyFunction = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Function:
    """One function or method of a file, nested ones too."""

    file: str
    name: str  # with its classes and the functions around it, such as "Field.render"
    line: int  # of its `def`
    body: int  # lines of code without signature, decorators and docstring
    parameters: int  # without self or cls; *args and **kwargs are one each
    kernel: bool  # may have as many parameters as it needs
    shapeless: bool  # public, takes or returns tensors, and its docstring gives no shape

    def __str__(self) -> str:
        return f"{self.file}:{self.line} {self.name}"


@dataclass(frozen=True)
class Source:
    """What was counted in one file."""

    file: str  # relative to the root, with slashes
    lines: int  # all of them
    code: int  # that hold code
    skips: int  # comments that keep the formatter away
    functions: tuple[Function, ...]
    imports: frozenset[str]  # modules that it may import, everywhere in it but for type checkers

    @property
    def module(self) -> str:
        """Its name in an import."""
        return self.file.removesuffix(".py").replace("/", ".").removesuffix(".__init__")


@dataclass(frozen=True)
class Target:
    """One row of the table."""

    name: str
    aim: int | None  # at most; None where there is none
    found: int
    offenders: tuple[str, ...] = ()

    @property
    def met(self) -> bool:
        """Whether the aim is reached."""
        return self.aim is None or self.found <= self.aim


def statements(node: ast.AST) -> Iterator[ast.AST]:
    """The statements below a node, those inside others too. Expressions are not entered."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.expr):
            yield child
            yield from statements(child)


def tokens_of(text: str) -> list[tokenize.TokenInfo]:
    """The tokens of a file's text, comments too."""
    return list(tokenize.generate_tokens(io.StringIO(text).readline))


def code_lines(tokens: Iterable[tokenize.TokenInfo], tree: ast.AST) -> set[int]:
    """The numbers of the lines that hold code; of a string over several lines, those not blank."""
    documents = {
        node.lineno: node
        for node in statements(tree)
        if isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    }
    found: set[int] = set()
    until = (0, 0)  # where the string that is a statement ends
    for token in tokens:
        document = documents.get(token.start[0])
        if document is not None and token.start[1] == document.col_offset:
            until = (document.end_lineno or 0, document.end_col_offset or 0)
        if token.type not in BLANK and token.start >= until:
            lines = enumerate(token.string.split("\n"), token.start[0])
            found.update(number for number, line in lines if line.strip())
    return found


def count_skips(tokens: Iterable[tokenize.TokenInfo]) -> int:
    """How many comments keep the formatter away."""
    return sum(
        token.type == tokenize.COMMENT and token.string.startswith("# fmt: ") for token in tokens
    )


def functions(
    node: ast.AST, around: tuple[str, ...] = (), inside: bool = False
) -> Iterator[tuple[str, AnyFunction, bool]]:
    """Each function below a node: its name in full, itself, whether it is in another function."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.expr):
            continue
        path = around
        if isinstance(child, AnyFunction | ast.ClassDef):
            path = (*around, child.name)
        deeper = inside or isinstance(child, AnyFunction)
        if isinstance(child, AnyFunction):
            yield ".".join(path), child, inside
        yield from functions(child, path, deeper)


def body_lines(node: AnyFunction, code: set[int]) -> int:
    """Lines of code of a function without its signature."""
    first = node.body[0]
    decorators = getattr(first, "decorator_list", [])
    start = min([first.lineno, *(each.lineno for each in decorators)])
    return len(code & set(range(start, (node.end_lineno or start) + 1)))


def parameters(node: AnyFunction, method: bool) -> int:
    """How many arguments a function takes, self or cls aside."""
    told = node.args
    names = [each.arg for each in (*told.posonlyargs, *told.args, *told.kwonlyargs)]
    if method and names and names[0] in ("self", "cls"):
        names = names[1:]
    return len(names) + (told.vararg is not None) + (told.kwarg is not None)


def is_kernel(file: str, node: AnyFunction) -> bool:
    """Whether a function is compiled, or a private one among the kernels."""
    decorators = (each.func if isinstance(each, ast.Call) else each for each in node.decorator_list)
    names = {ast.unparse(each).rpartition(".")[2] for each in decorators}
    private = node.name.startswith("_") and file.startswith(KERNELS)
    return private or not COMPILERS.isdisjoint(names)


def lacks_shape(name: str, node: AnyFunction) -> bool:
    """Whether a public function has tensors in its signature and no shape in its docstring."""
    if any(part.startswith("_") for part in name.split(".")):
        return False
    told = node.args
    every = (*told.posonlyargs, *told.args, *told.kwonlyargs, told.vararg, told.kwarg)
    hints = [each.annotation for each in every if each is not None] + [node.returns]
    texts = (BY_NAME.sub("", ast.unparse(hint)) for hint in hints if hint is not None)
    tensors = any(re.search(r"\bTensor\b", text) for text in texts)
    return tensors and SHAPE.search(ast.get_docstring(node) or "") is None


def imported(tree: ast.AST) -> frozenset[str]:
    """Modules that a file may import, anywhere in it, except for type checkers only.

    `from a import b` gives `a.b`: only the files can say whether that is a module.
    """
    hidden: set[ast.AST] = set()
    found: set[str] = set()
    for node in statements(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            hidden.update(node.body, *map(statements, node.body))
        elif node in hidden:
            continue
        elif isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return frozenset(found)


def read(file: str, text: str) -> Source:
    """Count what is in the text of one file."""
    tree = ast.parse(text)
    tokens = tokens_of(text)
    code = code_lines(tokens, tree)
    found = tuple(
        Function(
            file,
            name,
            node.lineno,
            body_lines(node, code),
            parameters(node, "." in name),
            is_kernel(file, node),
            not inside and lacks_shape(name, node),
        )
        for name, node, inside in functions(tree)
    )
    return Source(
        file, len(text.splitlines()), len(code), count_skips(tokens), found, imported(tree)
    )


def files(root: Path) -> list[str]:
    """Every file of the packages below a folder, relative to it."""
    paths = sorted(path for package in PACKAGES for path in (root / package).rglob("*.py"))
    return [path.relative_to(root).as_posix() for path in paths]


def graph(sources: Iterable[Source]) -> dict[str, set[str]]:
    """What each module imports of the others, a package's own file only where it is named."""
    by_name = {source.module: source for source in sources}

    def known(name: str) -> str:
        return name if name in by_name else name.rpartition(".")[0]

    return {
        name: {known(each) for each in source.imports} & by_name.keys() - {name}
        for name, source in by_name.items()
    }


def circles(arrows: Mapping[str, set[str]]) -> list[tuple[str, ...]]:
    """Groups of modules each of which imports, over others, every one of its group; sorted."""

    def reached(start: str) -> set[str]:
        seen: set[str] = set()
        waiting = [start]
        while waiting:
            new = arrows.get(waiting.pop(), set()) - seen
            seen |= new
            waiting.extend(new)
        return seen

    far = {name: reached(name) for name in arrows}
    groups = {
        tuple(sorted(other for other in far[name] if name in far.get(other, ())))
        for name in arrows
        if name in far[name]
    }
    return sorted(groups)


def is_numba(source: Source) -> bool:
    """Whether a file is numba's: it imports numba, or the compiler that our kernels share."""
    tops = {name.partition(".")[0] for name in source.imports}
    shared = any(name.startswith("renderers.kernels.jit.") for name in source.imports)
    return "numba" in tops or shared


def loosened(settings: Mapping[str, Any], sources: Iterable[Source]) -> list[str]:
    """Modules of ours that mypy reads less strictly, without those of numba's kernels."""
    strict = {source.module for source in sources if not is_numba(source)}
    found: list[str] = []
    for override in settings.get("tool", {}).get("mypy", {}).get("overrides", []):
        options = ", ".join(sorted(set(override) - HARMLESS))
        patterns = override["module"]
        for pattern in [patterns] if isinstance(patterns, str) else patterns:
            inside = re.compile(re.escape(pattern).replace(r"\.\*", r"(\..*)?"))
            if options and any(map(inside.fullmatch, strict)):
                found.append(f"{pattern}: {options}")
    return found


def ninety(values: Iterable[int]) -> int:
    """The least value that 90 % of them do not exceed; 0 of none."""
    ordered = sorted(values)
    return ordered[math.ceil(0.9 * len(ordered)) - 1] if ordered else 0


def over(every: Iterable[Function], most: int, count: Callable[[Function], int]) -> tuple[str, ...]:
    """Functions of which something is more than allowed, the worst first."""
    wrong = sorted((each for each in every if count(each) > most), key=count, reverse=True)
    return tuple(f"{each}: {count(each)}" for each in wrong)


def targets(sources: list[Source], settings: Mapping[str, Any]) -> list[Target]:
    """The rows of the table; settings are those of pyproject.toml."""
    every = [each for source in sources for each in source.functions]
    open_ones = [each for each in every if not each.kernel]
    code = sum(source.code for source in sources)
    of_toybox = sum(source.code for source in sources if source.file.startswith(TOYBOX))
    most = max((each.body for each in every), default=0)
    widest = max((each.parameters for each in open_ones), default=0)
    long = [f"{source.file}: {source.lines}" for source in sources if source.lines > 400]
    return [
        Target("lines of code, without toybox", 12_500, code - of_toybox),
        Target("lines of code, toybox", 2_700, of_toybox),
        Target("lines of a body, 90 % of them", 25, ninety(each.body for each in every)),
        Target("lines of a body", 45, most, over(every, 45, lambda each: each.body)),
        Target("parameters", 8, widest, over(open_ones, 8, lambda each: each.parameters)),
        none_of("files of more than 400 lines", long),
        none_of(
            "public functions of tensors without a shape",
            [str(each) for each in every if each.shapeless],
        ),
        none_of("modules that mypy reads less strictly", loosened(settings, sources)),
        none_of("circles of imports", map(", ".join, circles(graph(sources)))),
        Target("comments that keep the formatter away", None, sum(each.skips for each in sources)),
    ]


def none_of(name: str, offenders: Iterable[str]) -> Target:
    """A row of what should not be at all."""
    found = tuple(offenders)
    return Target(name, 0, len(found), found)


def table(rows: Iterable[Target]) -> str:
    """The rows in Markdown, and below them what misses an aim."""
    lines = ["| target | aim | found | |", "|---|---|---|---|"]
    missed = ""
    for row in rows:
        aim = "" if row.aim is None else f"≤ {row.aim:,}"
        lines.append(f"| {row.name} | {aim} | {row.found:,} | {'' if row.met else 'missed'} |")
        if row.offenders:
            missed += "\n".join([f"\n{row.name}:", *(f"  {each}" for each in row.offenders), ""])
    return "\n".join(lines) + "\n" + missed


def main(arguments: list[str] | None = None) -> int:
    """Print the table; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="status 1 where an aim is missed")
    parser.add_argument("--json", type=Path, help="a file for the same in JSON")
    parser.add_argument("--root", type=Path, default=ROOT, help="the checkout that is read")
    asked = parser.parse_args(arguments)
    settings = tomllib.loads((asked.root / "pyproject.toml").read_text(encoding="utf-8"))
    sources = [
        read(file, (asked.root / file).read_text(encoding="utf-8")) for file in files(asked.root)
    ]
    rows = targets(sources, settings)
    sys.stdout.write(table(rows))
    if asked.json:
        found = [{**asdict(row), "met": row.met} for row in rows]
        asked.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    return int(asked.check and not all(row.met for row in rows))


if __name__ == "__main__":
    sys.exit(main())
