"""`edge-cl wrap`."""

from __future__ import annotations

from typing import Any

import click

from edge_cl.cli.options import AnyPath, Bytes, json_option
from edge_cl.cli.output import note, show_json, show_table


@click.command("wrap")
@click.argument("bundle", type=AnyPath())
@click.argument("target", type=AnyPath())
@click.option("--slot-bytes", type=Bytes(), required=True, help="Of MCUboot's slot for it, such as 64KiB.")
@click.option("--version", default="", metavar="1.2.3+4", help="For MCUboot; else 0.0 and the head's version.")
@click.option("--key", type=AnyPath(), metavar="KEY.pub.pem", help="That the bundle must be signed with.")
@click.option("--signing-key", type=AnyPath(), metavar="FILE.pem", help="MCUboot's own, of imgtool keygen.")
@click.option("--header-bytes", type=int, default=32, show_default=True, help="Of MCUboot's header; then the blob.")
@click.option("--align", type=int, default=4, show_default=True, help="What the flash writes at once.")
@click.option("--pad", "is_padded", is_flag=True, help="To the whole slot, marked to be tried.")
@click.option("--depends", default="", metavar="TEXT", help='On other images, as imgtool reads it: "(0, 1.2.0)".')
@json_option
def command(bundle: str, target: str, *, as_json: bool, **options: Any) -> None:
    """Write the head of BUNDLE (out.edgehead) to TARGET as an image for MCUboot, beside the application's own.

    MCUboot's hash, signature and security counter are added; the blob in it stays as it is.
    """
    from dataclasses import asdict

    from edge_firmware.mcuboot import Image, wrap

    keys = {name: options.pop(name) for name in ("key", "signing_key")}
    report = wrap(bundle, target, Image(**options), **keys)
    if not report.is_signed:
        note("without --signing-key the image has a hash alone: MCUboot takes it only where it checks no signature")
    facts = asdict(report)
    if as_json:
        show_json(facts)
    else:
        shown = {"n_bytes": "bytes", "blob_at": "blob at", "is_signed": "signed"}
        values = [("no", "yes")[value] if isinstance(value, bool) else value for value in facts.values()]
        show_table("", [shown.get(name, name) for name in facts], [values])
