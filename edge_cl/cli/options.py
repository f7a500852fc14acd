"""Options that several commands share, and the types of their values."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Any

import click

from edge_cl.codecs import AUTO
from edge_cl.errors import InputError
from edge_cl.quantities import parse_bytes
from edge_cl.state import DEVICES, TIMEOUT

json_option = click.option("--json", "as_json", is_flag=True, help="One JSON value on stdout instead of a table.")
device_option = click.option("--device", type=click.Choice(DEVICES), help="Instead of what the state was made with.")
backbone_option = click.option("--backbone", metavar="FILE", help="Where the backbone's file is now, if it was moved.")
task_option = click.option("--task", metavar="NAME", help="That the classes belong to, where classes have tasks.")
timeout_option = click.option(
    "--timeout",
    type=click.FloatRange(0, 86_400),
    default=TIMEOUT,
    show_default=True,
    help="Seconds to wait for a writer.",
)


class AnyPath(click.Path):
    """A path; whether it can be read is for the command to say."""

    def __init__(self) -> None:
        super().__init__(readable=False)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the path; an empty one is wrong usage."""
        if not value:
            self.fail("expected a path; found an empty one", param, ctx)
        return super().convert(value, param, ctx)


state_argument = click.argument("state", type=AnyPath())


class Bytes(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """A number of bytes, such as 500kB or 2MiB."""

    name = "bytes"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the number of bytes."""
        if isinstance(value, int):
            return value
        try:
            return parse_bytes(value)
        except InputError as error:
            self.fail(str(error), param, ctx)


class Strength(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """A number, or `auto`: it is chosen by itself."""

    name = "number|auto"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float | str:
        """Return the number, or `auto`."""
        if isinstance(value, float) or value == AUTO:
            return float(value) if isinstance(value, float) else AUTO
        try:
            return float(value)
        except ValueError:
            self.fail(f"expected a number or {AUTO}; found {value!r}", param, ctx)


class Several(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """Values between commas."""

    def __init__(self, kind: click.ParamType) -> None:  # type: ignore[type-arg,unused-ignore]
        self.kind = kind
        self.name = f"{kind.name},..."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[Any, ...]:
        """Return the values, each once."""
        if isinstance(value, tuple):
            return value
        return tuple(dict.fromkeys(self.kind.convert(part.strip(), param, ctx) for part in value.split(",")))


def told(strength: float | str | None) -> float | None:
    """Return a strength as the learner takes it: None where it is chosen by itself."""
    return None if strength is None or isinstance(strength, str) else strength


class Numbers(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """Numbers or fractions between commas, such as 0.485,0.456,0.406 or 1/255; one stands for all."""

    name = "numbers"

    def __init__(self, n_values: int) -> None:
        self.n_values = n_values

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, ...]:
        """Return the numbers."""
        if isinstance(value, tuple):
            return value
        try:
            numbers = [float(Fraction(part)) for part in re.split(r"[,x]", value.replace(" ", ""))]
        except (ValueError, ZeroDivisionError):
            numbers = []
        if len(numbers) == 1:
            numbers *= self.n_values
        if len(numbers) != self.n_values:
            self.fail(f"expected {self.n_values} numbers between commas, or one; found {value!r}", param, ctx)
        return tuple(numbers)


class Number(Numbers):
    """One number or fraction."""

    name = "number"

    def __init__(self) -> None:
        super().__init__(1)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the number."""
        return super().convert(value, param, ctx)[0]
