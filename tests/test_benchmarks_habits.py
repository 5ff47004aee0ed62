"""What benchmarks/habits.py counts, on small sources whose numbers are known."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path

import pytest

from benchmarks.habits import (
    Source,
    circles,
    files,
    graph,
    loosened,
    main,
    ninety,
    read,
    table,
    targets,
)

ROOT = Path(__file__).resolve().parent.parent


def source(text: str, file: str = "threed/a.py") -> Source:
    return read(file, textwrap.dedent(text))


def test_blank_lines_comments_and_docstrings_are_no_code() -> None:
    found = source('''\
        """A module
        of two lines."""

        # a comment
        x = 1  # counts once

        class A:
            """A class."""

            y = 2
            """What y is."""

            def f(self):
                """A function.

                In three lines.
                """
                # why
                return (
                    1

                    + 2
                )
        ''')
    assert found.code == 8  # x, class, y, def, and the return's four that are not blank
    assert found.lines == 23
    assert found.skips == 0
    (f,) = found.functions
    assert (f.name, f.line, f.body) == ("A.f", 13, 4)


def test_a_string_that_is_a_value_is_code_but_for_its_blank_lines() -> None:
    found = source('''\
        def f():
            text = """
        # one

        two
        """
            return text, f"""{text}
        """
        ''')
    assert found.code == 7
    assert found.functions[0].body == 6


def test_a_docstring_in_parts_and_one_beside_code() -> None:
    found = source('''\
        def f(): "A docstring on the line of its function."
        def g():
            """One """ \\
            """and the other."""
        def h(): "documented"; return 1
        ''')
    assert found.code == 3
    assert [each.body for each in found.functions] == [1, 0, 1]


def test_a_body_is_without_signature_and_counts_what_is_inside() -> None:
    found = source('''\
        @decorated(
            1,
        )
        def outer(
            a,
            b,
        ):
            """What it does."""
            @decorated
            def inner(
                c,
            ):
                return c

            return inner
        ''')
    assert {each.name: each.body for each in found.functions} == {"outer": 6, "outer.inner": 1}


def test_parameters_are_counted_without_self() -> None:
    found = source("""\
        def f(a, /, b, *c, d, e=1, **g): pass
        class A:
            def m(self, a, *, b): pass
            @classmethod
            def n(cls): pass
            @staticmethod
            def o(a): pass
        async def p(self): pass
        """)
    assert [each.parameters for each in found.functions] == [6, 2, 0, 1, 1]


@pytest.mark.parametrize(
    ("file", "line", "kernel"),
    [
        ("threed/a.py", "def _f(): pass", False),
        ("renderers/kernels/a.py", "def _f(): pass", True),
        ("renderers/kernels/a.py", "def f(): pass", False),
        ("threed/a.py", "@numba.njit(cache=True)\ndef f(): pass", True),
        ("threed/a.py", "@triton.jit\ndef f(): pass", True),
        ("threed/a.py", "@inlined\ndef f(): pass", True),
        ("threed/a.py", "@functools.cache\ndef f(): pass", False),
    ],
)
def test_kernels_are_known(file: str, line: str, kernel: bool) -> None:
    assert read(file, line).functions[0].kernel is kernel


@pytest.mark.parametrize(
    ("text", "shapeless"),
    [
        ("def f(x: Tensor):\n 'Add.'", True),
        ("def f(x: Tensor):\n 'Add to [N, 3].'", False),
        ("def f(x: Tensor): pass", True),
        ("def f() -> Tensor | None:\n 'The sum, a scalar.'", False),
        ("def f(*x: 'Tensor') -> None:\n 'Add.'", True),
        ("def f(*, x: list[torch.Tensor]): 'Add.'", True),
        ("def f(x: Mapping[str, Tensor]) -> dict[str, Tensor]: 'Rename a state.'", False),
        ("def f(x: Mapping[str, Tensor]) -> Tensor: 'Take one.'", True),
        ("def f(x: TensorLike): 'Add.'", False),
        ("def _f(x: Tensor): 'Add.'", False),
        ("class A:\n def f(self, x: Tensor): 'Add.'", True),
        ("class _A:\n def f(self, x: Tensor): 'Add.'", False),
        ("class A:\n def __call__(self, x: Tensor): 'Add.'", False),
    ],
)
def test_public_tensors_need_a_shape(text: str, shapeless: bool) -> None:
    assert source(text).functions[0].shapeless is shapeless


def test_functions_inside_others_need_no_shape() -> None:
    inner = source("def f():\n def g(x: Tensor): 'Add.'").functions[1]
    assert (inner.name, inner.shapeless) == ("f.g", False)


def test_comments_for_the_formatter_are_counted_and_strings_are_not() -> None:
    assert source("a = 1  # fmt: skip\n# fmt: off\nb = '# fmt: skip'\n").skips == 2


def many(texts: dict[str, str]) -> list[Source]:
    return [read(f"{name}.py", text) for name, text in texts.items()]


def test_the_graph_has_every_import_but_those_for_type_checkers() -> None:
    hidden = "if TYPE_CHECKING:\n    from threed.a import x\nelse:\n    import threed.b\n"
    sources = {
        "threed/a": "import threed.b\nfrom threed import c, version\n",
        "threed/b": "def f():\n    from threed.c.d import e\n",
        "threed/c/d": hidden,
        "threed/c/__init__": "from threed.c.d import e\nimport torch\n",
        "threed/__init__": "",
    }
    found = graph(many(sources))
    assert found == {
        "threed.a": {"threed.b", "threed.c", "threed"},
        "threed.b": {"threed.c.d"},
        "threed.c.d": {"threed.b"},
        "threed.c": {"threed.c.d"},
        "threed": set(),
    }
    assert circles(found) == [("threed.b", "threed.c.d")]


def test_circles_are_groups() -> None:
    arrows = {"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": {"e"}, "e": {"d"}, "f": {"a", "d"}}
    assert circles(arrows) == [("a", "b", "c"), ("d", "e")]
    assert circles({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


def test_only_kernels_of_numba_may_be_read_less_strictly() -> None:
    sources = {
        "renderers/fast": "from numba import prange",
        "renderers/jitted": "from renderers.kernels.jit import compiled",
        "renderers/plain": "import torch",
        "threed/a": "",
        "threed/aa": "",
    }
    overrides = [
        {"module": ["numba.*", "threed.a"], "ignore_missing_imports": True},
        {"module": ["renderers.fast", "renderers.jitted"], "warn_return_any": False},
        {"module": "renderers.*", "warn_return_any": False, "disallow_any_expr": False},
        {"module": ["threed.a.*", "scipy.*"], "warn_return_any": False},
    ]
    assert loosened({"tool": {"mypy": {"overrides": overrides}}}, many(sources)) == [
        "renderers.*: disallow_any_expr, warn_return_any",
        "threed.a.*: warn_return_any",
    ]
    assert loosened({}, many(sources)) == []


def test_ninety_of_a_hundred() -> None:
    assert ninety(range(1, 101)) == 90
    assert ninety(range(1, 11)) == 9
    assert ninety([7]) == 7
    assert ninety([]) == 0


LONG = "def f(a, b, c, d, e, f, g, h, i):\n" + "    x = 1\n" * 46


def test_the_table_says_what_is_missed() -> None:
    rows = targets(many({"threed/a": LONG, "threed/toybox/b": "x = 1\ny = 2\n"}), {})
    found = {row.name: (row.aim, row.found, row.met) for row in rows}
    assert found == {
        "lines of code, without toybox": (12_500, 47, True),
        "lines of code, toybox": (2_700, 2, True),
        "lines of a body, 90 % of them": (25, 46, False),
        "lines of a body": (45, 46, False),
        "parameters": (8, 9, False),
        "files of more than 400 lines": (0, 0, True),
        "public functions of tensors without a shape": (0, 0, True),
        "modules that mypy reads less strictly": (0, 0, True),
        "circles of imports": (0, 0, True),
        "comments that keep the formatter away": (None, 0, True),
    }
    shown = table(rows)
    assert "| lines of a body | ≤ 45 | 46 | missed |\n" in shown
    assert shown.endswith("\nlines of a body:\n  threed/a.py:1 f: 46\n\nparameters:\n"
                          "  threed/a.py:1 f: 9\n")  # fmt: skip


def test_check_decides_the_status(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "pyproject.toml").write_text("")
    (tmp_path / "threed").mkdir()
    (tmp_path / "threed" / "a.py").write_text("x = 1\n")
    words = ["--root", str(tmp_path), "--json", str(tmp_path / "habits.json")]
    assert main([*words, "--check"]) == 0
    (tmp_path / "threed" / "a.py").write_text(LONG)
    assert main(words) == 0
    assert main([*words, "--check"]) == 1
    assert capsys.readouterr().out.count("missed") == 6
    rows = json.loads((tmp_path / "habits.json").read_text())
    assert rows[3] == {"name": "lines of a body", "aim": 45, "found": 46, "met": False,
                       "offenders": ["threed/a.py:1 f: 46"]}  # fmt: skip


def test_our_own_packages_are_all_read() -> None:
    read_files = set(files(ROOT))
    assert {"threed/__init__.py", "renderers/kernels/triton.py"} <= read_files
    assert not any(name.startswith(("tests/", "benchmarks/")) for name in read_files)
