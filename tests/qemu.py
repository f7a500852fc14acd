"""Bare-metal programs on emulated boards: how they are built, run to their end, and kept running with a serial line."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from edge_firmware import INCLUDE

from .c_builds import ARM, CORES, compile_c, need

DEMO = INCLUDE.parents[1] / "demo"
BOARDS = {"mps2-an385": "M3", "mps2-an386": "M4F", "mps2-an500": "M7", "microbit": "M0"}
SLOT_BYTES = {"mps2": 0x40000, "microbit": 0x10000}
SECTOR_BYTES = {"mps2": 4096, "microbit": 1024}
RECORD_BYTES = {"mps2": 2 * 4096, "microbit": 4 * 1024}
LONGEST_S = 20
FLASH = "flash.bin"


def family(board: str) -> str:
    """Return the name of the files that the board's own code is in."""
    return board.partition("-")[0]


def build(board: str, target: Path, units: Sequence[Path], *options: str) -> Path:
    """Return the target: the program of these units (with `main` and `on_fault`) for a board, or skip the test."""
    need("qemu-system-arm")
    own = [DEMO / f"{name}.c" for name in ("startup", "memory", "host", "flash", family(board))]
    link = ("-nostartfiles", "-nolibc", "-Wl,--gc-sections,--fatal-warnings", f"-L{DEMO}")
    compiler = (*ARM, *CORES[BOARDS[board]], "-Os", *link, f"-I{DEMO}")
    return compile_c(target, [*own, *units], (*compiler, f"-T{DEMO / family(board)}.ld"), *options)


def flash_with(board: str, blob: bytes) -> bytes:
    """Return what `flash.bin` holds where a blob lies in the first slot and nothing was recorded yet."""
    name = family(board)
    return blob.ljust(2 * SLOT_BYTES[name] + RECORD_BYTES[name], b"\xff")


def command(board: str, program: Path) -> list[str]:
    """Return the line that starts a program: its text comes on stderr, its files lie in the folder it starts in."""
    quiet = ["-display", "none", "-monitor", "none"]
    host = ["-semihosting-config", "enable=on,target=native"]
    return ["qemu-system-arm", "-M", board, *quiet, *host, "-kernel", str(program)]


def run(board: str, program: Path, *options: str, folder: Path | None = None) -> tuple[int, str]:
    """Return the exit status of a program and what it said.

    Args:
        board: a key of `BOARDS`.
        program: what `build` returned.
        options: further ones of QEMU's.
        folder: where it is started; without one, where the program lies.
    """
    line = [*command(board, program), "-serial", "none", *options]
    done = subprocess.run(
        line, cwd=folder or program.parent, capture_output=True, text=True, timeout=LONGEST_S, check=False
    )
    return done.returncode, done.stderr


@dataclass
class Running:
    """A board that runs.

    Attributes:
        process: QEMU.
        port: where its UART listens, on 127.0.0.1.
    """

    process: subprocess.Popen[str]
    port: int

    def connect(self) -> socket.socket:
        """Return a connection to its UART."""
        return socket.create_connection(("127.0.0.1", self.port), LONGEST_S)

    def cut_power(self) -> None:
        """End it at once, by SIGKILL."""
        self.process.kill()
        self.process.communicate()

    def end(self) -> tuple[int, str]:
        """Return the exit status and what was said, once it ended by itself."""
        _, text = self.process.communicate(timeout=LONGEST_S)
        return self.process.returncode, text


@contextmanager
def boot(board: str, program: Path, *options: str, folder: Path | None = None) -> Iterator[Running]:
    """Yield a board that runs a program, its UART behind TCP; the power is cut at the end if it still runs."""
    with socket.create_server(("127.0.0.1", 0)) as listening:  # QEMU inherits it: the port is taken before it starts
        number = listening.fileno()
        serial = ["-chardev", f"socket,id=uart,fd={number},server=on,wait=off,nodelay=on", "-serial", "chardev:uart"]
        process = subprocess.Popen(
            [*command(board, program), *serial, *options],
            cwd=folder or program.parent,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            pass_fds=[number],
        )
        running = Running(process, listening.getsockname()[1])
    try:
        yield running
    finally:
        if process.poll() is None:
            running.cut_power()
