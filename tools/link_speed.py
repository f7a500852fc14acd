"""Prints how long a head takes over a serial line, in times of what its bytes alone take.

    python tools/link_speed.py

At 115,200 baud, 11,520 bytes a second each way, with the latency of a bare UART and of USB adapters, from the first
request to the head that runs after the restart; a sector takes 40 ms to erase, a restart 300 ms.
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
from link_rig import BAUD_BYTES, BOOT_SECONDS, Device, Line, library, make_blob, make_head

CASES = [  # latency each way, largest chunk and queue of the device
    (0.002, 256, 1024),
    (0.002, 256, 512),
    (0.002, 1024, 2048),
    (0.016, 256, 1024),
    (0.016, 512, 2048),
    (0.050, 512, 4096),
]


def rows(n_classes: int = 37, dim: int = 1280) -> Iterator[dict[str, Any]]:
    """Yield a row of the table for each case."""
    old, new = make_blob(make_head(10, dim)), make_blob(replace(make_head(n_classes, dim, seed=1), version=2))
    with tempfile.TemporaryDirectory(prefix="edge_cl.") as folder:
        code = library(Path(folder))
        for latency, chunk, queue in CASES:
            device = Device(code, chunk=chunk, queue=queue)
            device.expect()
            device.put(0, old)
            device.boot()
            line = Line(device, latency=latency)
            report = push(Link(line), new)
            line_seconds = len(new) / BAUD_BYTES
            yield {
                "latency_ms": 1000 * latency,
                "chunk": chunk,
                "queue": queue,
                "head_bytes": len(new),
                "seconds": report.seconds,
                "line_times": report.seconds / line_seconds,
                "line_times_before_restart": (report.seconds - BOOT_SECONDS) / line_seconds,
                "repeated": report.repeated,
            }


def main() -> None:
    """Print the table, in Markdown or as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if not options.json:
        print("| latency each way, ms | chunk | queue | bytes | s | line times | without the restart |")
        print("|---|---|---|---|---|---|---|")
    for row in rows():
        if options.json:
            print(json.dumps(row))
            continue
        cells = [f"{row['latency_ms']:.0f}", str(row["chunk"]), str(row["queue"]), f"{row['head_bytes']:,}"]
        cells += [f"{row[name]:.2f}" for name in ("seconds", "line_times", "line_times_before_restart")]
        print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
