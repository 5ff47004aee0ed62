"""Commands made of settings: an option for each field, with its help, default and limits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import click
from pydantic.fields import FieldInfo

from threed.settings.base import Settings
from threed.settings.schema import describe
from threed.systems.inputs import Input

Act = Callable[..., None]
"""(the settings, extra options by name) -> nothing; it says what it has made."""


class Command(click.Command):
    """A command whose options are the fields of a model, and some of its own.

    Fields that are marked as arguments are typed without their names, in the order of their places.
    """

    def __init__(
        self, name: str, model: type[Settings], act: Act, extra: Sequence[click.Parameter] = (),
        hidden: Sequence[str] = (),
    ) -> None:  # fmt: skip
        self.model, self.act = model, act
        self.own = [f for f in model.model_fields if f not in hidden]
        limits = {item.name: item.allowed.removesuffix(", or null") for item in describe(model)}
        fields = {field: model.model_fields[field] for field in self.own}
        params = [
            _parameter(name, field, limits.get(name, ""))
            for name, field in sorted(fields.items(), key=lambda item: _place(item[1]))
        ]
        super().__init__(
            name, params=[*params, *extra], callback=self.run, help=model.__doc__,
            context_settings={"help_option_names": ["-h", "--help"]},
        )  # fmt: skip

    def run(self, **values: Any) -> None:
        """Make the settings of what was typed, and act."""
        fields = {name: values.pop(name) for name in list(values) if name in self.own}
        given = {name: value for name, value in fields.items() if value not in (None, ())}
        self.act(self.model(**given), **values)


class SystemCommand(Command):
    """A command that a system may guide: with --system NAME it has that system's inputs, too.

    Those of the others are there but not shown, so that a mistake about them can be explained.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Find the system first: it decides which options there are."""
        ctx.meta["system"] = _named(args)
        return super().parse_args(ctx, args)

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """The options of the command and of its system."""
        shown, hidden = _inputs(ctx.meta.get("system"))
        taken = {param.name for param in self.params}
        options = [_input_option(item) for item in shown]
        options += [_input_option(item, hidden=True) for item in hidden]
        return super().get_params(ctx) + [o for o in options if o.name not in taken]

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """After the options of a system, its knobs."""
        from threed.systems.table import find_system

        name = ctx.meta.get("system")
        if name is None:
            return
        system = find_system(name)
        title = f"Knobs of {name} ({system.paper}, arXiv:{system.arxiv})"
        _write_settings(formatter, title, system.knobs)

    def run(self, **values: Any) -> None:
        """Gather the inputs of systems into one mapping."""
        names = {item.name for row in _systems().values() for item in row.inputs}
        told = {n: values.pop(n) for n in list(values) if n in names and n not in self.own}
        inputs = {name: words for name, words in told.items() if words}
        fields = {name: values.pop(name) for name in list(values) if name in self.own}
        given = {name: value for name, value in fields.items() if value not in (None, ())}
        self.act(self.model(**given, inputs=inputs), **values)


class TrainCommand(Command):
    """A command that teaches a system: with its name, --help tells that system's options, too."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Find the system first."""
        table = _systems()
        ctx.meta["taught"] = next((w for w in args if w in table and table[w].training), None)
        return super().parse_args(ctx, args)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """After the options of all, those of the system, and how it trains by default."""
        name = ctx.meta.get("taught")
        if name is None:
            return
        training = _systems()[name].training
        _write_settings(formatter, f"NAME=VALUE options of {name}", training.options)
        with formatter.section("Steps, batch and learning rate, if not given"):
            recipes = {"small models (toybox)": training.small, "others": training.paper}
            formatter.write_dl([(who, f"{r.steps}, {r.batch * r.accumulate}, {r.lr:g}")
                                for who, r in recipes.items()])  # fmt: skip


def _write_settings(formatter: click.HelpFormatter, title: str, model: type[Settings]) -> None:
    """Write a section with the names, defaults and meanings of settings."""
    with formatter.section(title):
        formatter.write_dl(
            [(f"{one.name}={'' if one.default is None else one.default}",
              f"{one.meaning}; {one.allowed}") for one in describe(model)] or [("none", "")]
        )  # fmt: skip


def _systems() -> dict[str, Any]:
    from threed.systems.table import SYSTEMS

    return SYSTEMS


def _named(args: Sequence[str]) -> str | None:
    """The system of a command line. InputError if there is none of that name."""
    from threed.systems.table import find_system

    for word, following in zip(args, [*args[1:], None]):
        name = following if word == "--system" else None
        if word.startswith("--system="):
            name = word.partition("=")[2]
        if name is not None:
            return find_system(name).name
    return None


def _inputs(system: str | None) -> tuple[list[Input], list[Input]]:
    """The inputs of a system, and those of the others by names that it does not have."""
    table = _systems()
    shown = list(table[system].inputs) if system else []
    names = {item.name for item in shown}
    every = (item for row in table.values() for item in row.inputs)
    hidden = {item.name: item for item in every if item.name not in names}
    return shown, list(hidden.values())


def _input_option(item: Input, *, hidden: bool = False) -> click.Option:
    needed = " (needed)" if item.required else ""
    again = "; repeat" if item.many else ""
    return click.Option(
        [f"--{item.name}"], multiple=True, hidden=hidden, metavar=item.kind.metavar,
        help=f"{item.about[0].upper()}{item.about[1:]}{again}{needed}.",
    )  # fmt: skip


def _place(field: FieldInfo) -> int:
    """Where an argument stands; options follow."""
    extra = field.json_schema_extra
    place = extra.get("argument", 100) if isinstance(extra, dict) else 100
    return int(str(place))


def _parameter(name: str, field: FieldInfo, allowed: str) -> click.Parameter:
    """The option or argument of a field."""
    hint, many = _bare(field.annotation)
    kind: Any = click.Path(path_type=Path) if hint is Path else hint
    if kind not in (int, float, bool) and hint is not Path:
        kind = str
    if _place(field) < 100:
        required = field.is_required()
        what = "NAME=VALUE" if many and not required else name.upper()
        metavar = (what if required else f"[{what}]") + "..." * many
        return click.Argument([name], type=kind, nargs=-1 if many else 1, required=required,
                              metavar=metavar)  # fmt: skip
    option = f"-{name}" if len(name) == 1 else f"--{name.removeprefix('as_').replace('_', '-')}"
    about = (field.description or "").rstrip(".")
    default = field.get_default(call_default_factory=True)
    if not field.is_required() and default not in (None, "", (), False, {}):
        about += f"; {default} if not given"
    if kind is bool:
        return click.Option([option, name], is_flag=True, default=None, help=_sentence(about))
    if "in " in allowed or allowed.startswith("one of"):
        about += f" ({allowed})"
    return click.Option([option, name], type=kind, multiple=many, required=field.is_required(),
                        help=_sentence(about))  # fmt: skip


def _bare(hint: Any) -> tuple[Any, bool]:
    """The type of one value, and whether there may be several."""
    if get_origin(hint) in (Union, UnionType):
        hint = next(part for part in get_args(hint) if part is not type(None))
    if get_origin(hint) is Annotated:
        hint = get_args(hint)[0]
    if get_origin(hint) is tuple:
        return get_args(hint)[0], True
    return hint, False


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."
