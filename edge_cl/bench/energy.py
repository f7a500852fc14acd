"""Energy from an INA3221, the power monitor of Jetson boards, by the kernel's hwmon files.

| file in sys/class/hwmon/hwmonN/ | what it says (C = 1, 2, 3: the channel) |
|---|---|
| name | `ina3221` |
| inC_label | the rail, such as `VDD_IN` |
| inC_input | its voltage in mV |
| currC_input | its current in mA |

Only a rail that all of the board's current goes through is read: rails are fed from each other, and a sum of them
counts some of it twice and leaves some out. Where there is no such rail, as on the AGX boards, energy is unavailable.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edge_cl.bench.board import ROOT, read_text

TOTAL_RAILS = ("VDD_IN", "POM_5V_IN", "VIN")  # Orin Nano and NX, Xavier NX and TX2; the Nano; boards with one input
CHANNELS = (1, 2, 3)  # in4 to in7 are voltages over the shunts
PERIOD = 0.02  # seconds between two readings
LEAST_SECONDS = 0.2  # of timed work: for less, the monitor has averaged over something else

Span = tuple[float, float]


@dataclass(frozen=True)
class Rail:
    """The rail of a board that all of its current goes through.

    Attributes:
        label: its name.
        folder: of the monitor.
        channel: 1, 2 or 3.
    """

    label: str
    folder: Path
    channel: int

    def watts(self) -> float | None:
        """Return the power now; None where the monitor does not answer."""
        try:
            millivolts = int(read_text(self.folder / f"in{self.channel}_input"))
            milliamperes = int(read_text(self.folder / f"curr{self.channel}_input"))
        except ValueError:
            return None
        return millivolts * milliamperes / 1e6


def find_rail(root: Path = ROOT) -> Rail | None:
    """Return the total rail of the board; None where there is none.

    Args:
        root: the folder that holds sys.
    """
    rails: dict[str, Rail] = {}
    for folder in sorted((root / "sys/class/hwmon").glob("hwmon*")):
        if read_text(folder / "name").strip() == "ina3221":
            for channel in CHANNELS:
                label = read_text(folder / f"in{channel}_label").strip()
                rails.setdefault(label.upper(), Rail(label, folder, channel))
    return next((rails[label] for label in TOTAL_RAILS if label in rails), None)


class PowerLog:
    """Readings of a rail, taken by a thread while work is done; a context manager."""

    def __init__(self, rail: Rail | None) -> None:
        self._rail = rail
        self._readings: list[tuple[float, float]] = []
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._read_on, daemon=True)

    def __enter__(self) -> PowerLog:
        """Take the first reading, and begin."""
        if self._rail:
            self._read()
            self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        """Take the last reading, and end."""
        if self._rail:
            self._done.set()
            self._thread.join()
            self._read()

    def joules(self, spans: Sequence[Span]) -> float | None:
        """Return the energy of the whole board within spans of time; None where it was not, or not long enough, read.

        Args:
            spans: starts and ends, by `time.perf_counter`, within the context.
        """
        if len(self._readings) < 2 or sum(end - start for start, end in spans) < LEAST_SECONDS:
            return None
        return joules_within(self._readings, spans)

    def _read_on(self) -> None:
        while not self._done.wait(PERIOD):
            self._read()

    def _read(self) -> None:
        assert self._rail is not None
        before = time.perf_counter()
        watts = self._rail.watts()
        if watts is not None:
            self._readings.append(((before + time.perf_counter()) / 2, watts))


def joules_within(readings: Sequence[tuple[float, float]], spans: Sequence[Span]) -> float:
    """Return the energy within spans of time; between two readings the power is taken to be their mean.

    Args:
        readings: times in seconds, growing, and watts; at least two.
        spans: starts and ends in seconds; nothing is known, and nothing counted, beyond the readings.
    """
    times, watts = map(np.array, zip(*readings, strict=True))
    energy = np.concatenate([[0.0], np.cumsum(np.diff(times) * (watts[1:] + watts[:-1]) / 2)])
    at = np.interp(np.array(spans), times, energy)
    return float((at[:, 1] - at[:, 0]).sum())
