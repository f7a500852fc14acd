"""`edge-cl pack`."""

from __future__ import annotations

from typing import Any

import click

from edge_cl.cli.options import AnyPath, Number, backbone_option, json_option, state_argument
from edge_cl.cli.output import note, note_skipped, progress, show_json, show_table, skipped_rows


@click.command("pack")
@state_argument
@click.argument("target", type=AnyPath())
@click.option("--key", type=AnyPath(), required=True, metavar="KEY.pem", help="That signs; of edge-cl keygen.")
@click.option("--product", metavar="ID", help="Of the devices it is for; else the name of the state's file.")
@click.option("--counter", type=int, default=0, show_default=True, help="Devices refuse a lower one than they have.")
@click.option("--float32", is_flag=True, help="Rows of float32 instead of int8.")
@click.option("--canaries", type=int, default=4, show_default=True, metavar="N", help="Features of known answers.")
@click.option("--samples", type=AnyPath(), metavar="DIR", help="Images, or an .npz of features, to measure ranges on.")
@click.option("--feature-scale", type=Number(), help="Of a backbone that gives int8 features.")
@click.option("--feature-zero-point", type=int, help="Likewise.")
@backbone_option
@json_option
def command(state: str, target: str, *, samples: str | None, as_json: bool, **options: Any) -> None:
    """Write the learnt head to TARGET (out.edgehead): int8 rows for devices, signed, with canaries.

    Its canaries got their answers from numpy and onnxruntime before the file appears.
    """
    from dataclasses import asdict

    from edge_firmware.packing import pack
    from edge_firmware.ranges import read_asked

    asked = None if samples is None else read_asked(samples)
    with progress("extracting", 0 if asked is None else len(asked)) as advance:
        report = pack(state, target, samples=asked, on_progress=advance, **options)
    for text in report.notes:
        note(text)
    note_skipped(report.skipped)
    if as_json:
        show_json({**asdict(report), "skipped": skipped_rows(report.skipped)})
        return
    facts = {
        "path": report.path,
        "product": report.product,
        "version": report.version,
        "counter": report.counter,
        "rows": report.rows,
        "classes": report.n_classes,
        "canaries": report.n_canaries,
        "bytes": report.n_bytes,
        "blob bytes": report.blob_bytes,
        "agreement, %": 100 * report.agreement,
        "key": report.key_id,
    }
    show_table("", list(facts), [list(facts.values())])
