"""Prints what faults of a line cost: a head is pushed over each, many times, and has to arrive byte for byte.

    python tools/link_faults.py 20

The line is a serial one at 115,200 baud in time of its own (`link_rig`), each fault strikes frames both ways.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from edge_firmware.link import Link
from edge_firmware.push import push
from link_rig import BAUD_BYTES, Device, Faults, Line, library, make_blob, make_head

from edge_cl.errors import EdgeClError

KINDS = {
    "lost": ("lost",),
    "doubled": ("doubled",),
    "reordered": ("reordered",),
    "a bit flipped": ("flipped",),
    "a byte more or less": ("shifted",),
    "all of these": ("lost", "doubled", "reordered", "flipped", "shifted"),
}
RATES = (0.01, 0.05, 0.2)


def rows(n_runs: int, n_classes: int = 38, dim: int = 1280) -> Iterator[dict[str, Any]]:
    """Yield a row of the table for each fault and rate."""
    old, new = make_blob(make_head(10, dim)), make_blob(replace(make_head(n_classes, dim, seed=1), version=2))
    with tempfile.TemporaryDirectory(prefix="edge_cl.") as folder:
        code = library(Path(folder))
        for kind, names in {"none": (), **KINDS}.items():
            for rate in RATES if names else (0.0,):
                faults = Faults(**dict.fromkeys(names, rate))
                runs = [one(Device(code), old, new, faults, seed) for seed in range(n_runs)]
                good = [run for run in runs if run is not None]
                yield {
                    "fault": kind,
                    "rate": rate,
                    "delivered": f"{len(good)}/{n_runs}",
                    "sent_per_byte": sum(run[0] for run in good) / len(good) / len(new) if good else None,
                    "repeated": sum(run[1] for run in good) / len(good) if good else None,
                    "line_times": sum(run[2] for run in good) / len(good) / (len(new) / BAUD_BYTES) if good else None,
                }


def one(device: Device, old: bytes, new: bytes, faults: Faults, seed: int) -> tuple[int, int, float] | None:
    """Return bytes sent, requests repeated and seconds of one push; None where it did not arrive."""
    device.expect()
    device.put(0, old)
    device.boot()
    line = Line(device, faults, seed=seed)
    try:
        report = push(Link(line), new)
    except EdgeClError:
        return None
    is_right = device.running == 1 and device.slot(1)[: len(new)] == new and device.slot(0)[: len(old)] == old
    return (report.sent_bytes, report.repeated, report.seconds) if is_right and not device.broken_rules else None


def main() -> None:
    """Print the table, in Markdown or as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=int, nargs="?", default=20, help="pushes for each row")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if not options.json:
        print("| fault of a frame, each way | rate | delivered | bytes sent / bytes of the head | requests repeated |")
        print("|---|---|---|---|---|")
    for row in rows(options.runs):
        if options.json:
            print(json.dumps(row))
            continue
        sent = "-" if row["sent_per_byte"] is None else f"{row['sent_per_byte']:.2f} | {row['repeated']:.0f}"
        print(f"| {row['fault']} | {row['rate']:.0%} | {row['delivered']} | {sent} |", flush=True)


if __name__ == "__main__":
    main()
