"""`edge-cl deploy`."""

from __future__ import annotations

from typing import Any

import click

from edge_cl.cli.options import AnyPath, json_option
from edge_cl.cli.output import note, show_json, show_table


@click.command("deploy")
@click.argument("bundle", type=AnyPath())
@click.option("--to", "folder", type=AnyPath(), required=True, metavar="DIR", help="That heads are deployed to.")
@click.option("--key", type=AnyPath(), metavar="KEY.pub.pem", help="Of its heads; the first time, then it is known.")
@click.option(
    "--check", metavar="COMMAND", help="Given the head's folder as last argument, ends with 0 if all is well."
)
@click.option("--check-seconds", type=float, default=60.0, show_default=True, help="That the check may take.")
@click.option("--tries", type=int, default=0, metavar="N", help="Leave it on trial for N starts of the app.")
@json_option
def command(bundle: str, folder: str, *, check: str | None, as_json: bool, **options: Any) -> None:
    """Put the head of BUNDLE (out.edgehead) into DIR, where an app takes the one to run from.

    It runs when its signature, its canaries and the check have passed; else what ran before runs on.
    """
    from dataclasses import asdict

    from edge_firmware.deployment import deploy

    report = deploy(bundle, folder, check=[] if check is None else _words(check), **options)
    if report.was_running:
        note("it runs there already; " + ("there is no trial of it" if options["tries"] else "nothing was changed"))
    if report.state == "trial":
        note(f"on trial for {options['tries']} starts of the app, till it calls edge_firmware.confirm({folder!r})")
    facts = asdict(report)
    if as_json:
        show_json(facts)
    else:
        show_table("", [name.replace("n_", "") for name in facts], [list(facts.values())])


def _words(text: str) -> list[str]:
    """Return a command's words, as a shell takes them apart; nothing else of it is a shell's.

    Raises:
        BadParameter: a quote is left open, or there is none.
    """
    import shlex

    try:
        words = shlex.split(text)
    except ValueError as error:
        raise click.BadParameter(f"{error}: {text!r}", param_hint="--check") from None
    if not words:
        raise click.BadParameter("expected a command; found none", param_hint="--check")
    return words
