"""`edge-cl keygen`."""

from __future__ import annotations

import click

from edge_cl.cli.options import AnyPath, json_option
from edge_cl.cli.output import note, show_json, show_table


@click.command("keygen")
@click.argument("key", type=AnyPath())
@click.option("--c", "c_header", type=AnyPath(), metavar="FILE.h", help="Also write the public key as C, for firmware.")
@json_option
def command(key: str, c_header: str | None, as_json: bool) -> None:
    """Make a key that signs heads: KEY (key.pem), for its owner alone, and key.pub.pem for devices.

    With --c and a KEY that is there already, nothing is made but the C header of its public half.
    """
    import os
    from pathlib import Path

    from edge_firmware.keys import PublicKey, check_c_target, keygen, public_path, write_c_key

    if c_header is not None:
        check_c_target(Path(c_header))
    is_there = c_header is not None and os.path.exists(key)
    public = PublicKey.open(key) if is_there else keygen(key)
    facts = {"key": key, "public": str(public_path(key)), "id": public.key_id.hex()}
    if c_header is not None:
        write_c_key(c_header, public)
        facts["c"] = c_header
    if as_json:
        show_json(facts)
    else:
        show_table("", list(facts), [list(facts.values())])
        if not is_there:
            note(f"keep {key} secret and safe: whoever has it signs for your devices, and without it nobody does")
