"""The emulated boards give a program what the demo needs of them: a UART, flash with its rules, a reset."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from . import qemu

TRIAL = r"""
#include "board.h"
#include "flash.h"
#include "host.h"
#include "startup.h"
void on_fault(void) { host_text("fault\n"); host_exit(99); }
int main(void) {
    static edge_flash flash;
    uint8_t bytes[8] = {1, 2, 3, 4, 5, 6, 7, 8};
    const uint8_t *place;
    int command;
    flash_open(&flash);
    place = (const uint8_t *)(uintptr_t)flash.slot_address[1];
    for (;;) {
        while ((command = board_receive()) < 0) board_wait();
        if (command == 'e') board_send((uint8_t)('0' + flash.erase(0, flash.slot_address[1])));
        if (command == 'p') board_send((uint8_t)('0' + flash.program(0, flash.slot_address[1] + 8, bytes, 8)));
        if (command == 'g') board_send(place[8]);
        if (command == 'r') startup_reset();
        if (command == 'f') __builtin_trap();
        if (command == 'q') return 7;
        if (command == 's') board_send((uint8_t)(startup_stack_bytes() > 64 && startup_stack_bytes() < 1024));
    }
}
"""


def test_text_and_exit_status_come_out_of_every_board(program: tuple[str, Path], tmp_path: Path) -> None:
    board, _ = program
    unit = tmp_path / "main.c"
    unit.write_text(
        '#include "host.h"\n#include "startup.h"\nvoid on_fault(void) { }\n'
        'int main(void) { host_text("has "); host_number(4294967295u); return 3; }\n'
    )
    assert qemu.run(board, qemu.build(board, tmp_path / "trial.elf", [unit])) == (3, "has 4294967295")


@pytest.fixture(scope="module", params=qemu.BOARDS)
def program(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    folder = tmp_path_factory.mktemp(request.param)
    (folder / "main.c").write_text(TRIAL)
    return request.param, qemu.build(request.param, folder / "trial.elf", [folder / "main.c"])


def test_what_was_programmed_is_there_after_a_reset_and_a_power_cut(program: tuple[str, Path], tmp_path: Path) -> None:
    with qemu.boot(*program, folder=tmp_path) as running, running.connect() as line:
        assert ask(line, b"g") == b"\xff"
        assert ask(line, b"p") == b"0"
        line.sendall(b"r")
        assert ask(line, b"g") == b"\x01"
    with qemu.boot(*program, folder=tmp_path) as running, running.connect() as line:
        assert ask(line, b"g") == b"\x01"
        assert ask(line, b"e") == b"0"
        assert ask(line, b"g") == b"\xff"
        assert ask(line, b"s") == b"\x01"
        line.sendall(b"q")
        assert running.end() == (7, "")


def test_a_broken_rule_of_flash_and_a_fault_end_the_program(program: tuple[str, Path], tmp_path: Path) -> None:
    board, elf = program
    (tmp_path / qemu.FLASH).write_bytes(bytes(len(qemu.flash_with(board, b""))))
    with qemu.boot(board, elf, folder=tmp_path) as running, running.connect() as line:
        line.sendall(b"p")
        assert running.end() == (97, "flash: programs what was not erased\n")
    with qemu.boot(board, elf, folder=tmp_path) as running, running.connect() as line:
        line.sendall(b"f")
        assert running.end() == (99, "fault\n")


def ask(line: socket.socket, command: bytes) -> bytes:
    line.settimeout(2)
    for _ in range(20):  # a board that starts anew drops what lies in its UART
        line.sendall(command)
        try:
            return line.recv(1)
        except TimeoutError:
            continue
    raise AssertionError(f"{command!r} is not answered")
