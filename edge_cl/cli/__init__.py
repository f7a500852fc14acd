"""The command line, `edge-cl`: each command is imported when it is called, so that help answers at once."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib import import_module
from typing import Any

import click

from edge_cl.errors import EdgeClError

COMMANDS = {
    "new": "Make a state file: backbone, replay budget, recipe.",
    "learn": "Learn a folder of class folders (or a .csv, or an .npz of features).",
    "predict": "Name the class of images.",
    "eval": "Measure accuracy on labelled samples.",
    "export": "Write the learnt classifier as ONNX, or as C.",
    "verify": "Check an exported file against its state.",
    "patch": "Bring an exported file up to date by a delta.",
    "keygen": "Make a key that signs heads for devices.",
    "pack": "Write the learnt head as a signed bundle for devices.",
    "deploy": "Put a bundle's head where an app on Linux takes it from.",
    "slots": "Show what is deployed in a folder.",
    "wrap": "Write a bundle's head as an image for MCUboot.",
    "push": "Send a signed head to a device, over a serial port, TCP or SMP.",
    "info": "Show classes, backbone and bytes of a state, or of a bundle.",
    "log": "Show every committed change.",
    "diff": "Show what changed between two versions.",
    "rollback": "Make an earlier version current again.",
    "forget": "Remove a class, and its bytes from the file.",
    "set": "Change budgets, shrinkage or penalty.",
    "check": "Verify that a state is whole.",
    "tune": "Try replay budgets and strengths on samples, if what is chosen by itself is not enough.",
    "bench": "Measure accuracy against other recipes, and speed on this machine.",
    "demo": "Learn handwritten digits, five first and then one by one, offline.",
}


class LazyGroup(click.Group):
    """Commands that live in modules of their own name, and errors of one line."""

    def __init__(self, *args: Any, summaries: Mapping[str, str], prefix: str = "", **options: Any) -> None:
        super().__init__(*args, **options)
        self._summaries = summaries  # what each command does, by its name
        self._prefix = prefix  # of the modules' names

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """Return the commands in the order of a user's day."""
        return list(self._summaries)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Return the command, imported now."""
        if cmd_name not in self._summaries:
            return None
        command: click.Command = import_module(f"edge_cl.cli.{self._prefix}{cmd_name}_command").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(self._summaries.items()))

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; what a user can cause ends in one line and exit status 1.

        Raises:
            BrokenPipeError: whoever read the output has gone; click ends quietly.
        """
        try:
            return super().invoke(ctx)
        except EdgeClError as error:
            click.echo(f"edge-cl: {error}", err=True)
        except BrokenPipeError:
            raise
        except OSError as error:
            click.echo(f"edge-cl: {error.filename or 'output'}: {error.strerror}", err=True)
        except KeyboardInterrupt:
            click.echo("edge-cl: interrupted; the state is the last committed version, whole", err=True)
        sys.exit(1)


@click.group(cls=LazyGroup, summaries=COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="edge_cl", prog_name="edge-cl")
def main() -> None:
    """Teach a deployed classifier on the device that runs it."""
