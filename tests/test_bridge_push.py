"""`edge-cl push` to a device that is a process of its own, over TCP and over a serial port."""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from edge_firmware.bundle import Bundle, write_bundle
from edge_firmware.link import Link
from edge_firmware.ports import PortLostError, SerialPort, TcpPort, host_and_port
from edge_firmware.push import keep_pushing, push

from edge_cl.cli import main
from edge_cl.errors import LinkError, MissingPackageError

from .c_builds import need
from .link_rigs import device_code, load_tool

SLOT_BYTES, SECTOR_BYTES = 1 << 16, 4096
SIZES = tuple(map(str, (SLOT_BYTES, SECTOR_BYTES, 256, 1024)))


@pytest.fixture(scope="module")
def rig() -> Any:
    need("cc")
    return load_tool("link_rig")


@pytest.fixture(scope="module")
def program(rig: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(rig.build(tmp_path_factory.mktemp("program") / "link_device", "-DLINK_PROCESS"))


@pytest.fixture(scope="module")
def old(rig: Any) -> bytes:
    return bytes(rig.make_blob(rig.make_head(10, 256)))


@pytest.fixture(scope="module")
def new(rig: Any) -> bytes:
    return bytes(rig.make_blob(replace(rig.make_head(40, 256, seed=1), version=2, parent=1)))


class Process:
    """A device that is a process, its flash a file."""

    def __init__(self, program: Path, folder: Path, blob: bytes) -> None:
        self.program, self.flash = program, folder / "flash"
        memory = bytearray(b"\xff" * (2 * SLOT_BYTES + 2 * SECTOR_BYTES))
        memory[: len(blob)] = blob
        self.flash.write_bytes(memory)
        self.port = "0"
        self.start()

    def start(self) -> None:
        words = [str(self.program), str(self.flash), *SIZES, self.port]
        self.process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.port = self.process.stdout.readline().strip()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def slot(self, slot: int) -> bytes:
        return self.flash.read_bytes()[slot * SLOT_BYTES : (slot + 1) * SLOT_BYTES]


@pytest.fixture
def device(program: Path, tmp_path: Path, old: bytes) -> Iterator[Process]:
    made = Process(program, tmp_path, old)
    yield made
    made.kill()


@pytest.fixture
def bundle(rig: Any, tmp_path: Path, new: bytes) -> Path:
    write_bundle(tmp_path / "new.edgehead", Bundle(new), rig.signing_key())
    return tmp_path / "new.edgehead"


def cli(*words: str | Path) -> Any:
    return CliRunner().invoke(main, ["push", *map(str, words)])


def refusal(*words: str | Path) -> str:
    """Return the one line that a refused push says."""
    result = cli(*words)
    assert result.exit_code == 1, result.output
    (line,) = result.stderr.splitlines()
    assert line.startswith("edge-cl: ")
    return str(line.removeprefix("edge-cl: "))


def test_a_bundle_is_pushed_over_tcp(device: Process, bundle: Path, new: bytes) -> None:
    result = cli(bundle, "--tcp", device.address, "--json")
    assert result.exit_code == 0, result.output
    facts = json.loads(result.stdout)
    assert facts["state"] == "confirmed"
    assert facts["version"] == facts["pushed"] == 2
    assert device.slot(1)[: len(new)] == new
    again = cli(bundle, "--tcp", device.address)
    assert "ran before" in again.stdout


def test_a_device_that_is_killed_in_the_middle_and_started_again_gets_the_rest(
    device: Process, old: bytes, new: bytes
) -> None:
    killed: list[int] = []

    def kill_once(n_bytes: int) -> None:
        if n_bytes > len(new) / 2 and not killed:
            killed.append(n_bytes)
            device.kill()
            device.start()

    report = keep_pushing(partial(TcpPort, device.address), new, on_progress=kill_once)
    assert killed
    assert report.state == "confirmed"
    assert device.slot(1)[: len(new)] == new
    assert device.slot(0)[: len(old)] == old
    assert report.written_bytes < len(new) + SECTOR_BYTES + 1024


def test_a_device_that_is_lost_for_good_is_told(device: Process, new: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge_firmware.link.PATIENCE_SECONDS", 0.5)
    monkeypatch.setattr(Link.__init__, "__defaults__", (0.5,))

    def kill(n_bytes: int) -> None:
        if n_bytes > len(new) / 2 and device.process.poll() is None:
            device.kill()

    with pytest.raises(PortLostError, match="push again to go on from there"):
        keep_pushing(partial(TcpPort, device.address), new, on_progress=kill)


def test_a_killed_host_process_goes_on_where_it_stopped(device: Process, bundle: Path, new: bytes) -> None:
    """Through a listener that passes on so many bytes and then kills the host."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        words = [sys.executable, "-c", "from edge_cl.cli import main; main()", "push", str(bundle), "--tcp", address]
        host = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        up, _ = server.accept()
        with up, socket.create_connection(host_and_port(device.address)) as down:
            passed = 0
            while passed < 7_000:
                for end in select.select([up, down], [], [])[0]:
                    data = end.recv(256)
                    passed += len(data) if end is up else 0
                    (down if end is up else up).sendall(data)
            host.kill()
            host.wait()
    result = cli(bundle, "--tcp", device.address, "--json")
    facts = json.loads(result.stdout)
    assert facts["skipped_bytes"] >= 5_000
    assert facts["sent_bytes"] < 1.1 * (len(new) - 5_000) + 400
    assert device.slot(1)[: len(new)] == new


@pytest.fixture
def terminal(rig: Any, old: bytes, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Any]]:
    """Return the path of a serial port with a device behind it, and the device."""
    pytest.importorskip("serial", reason="needs pyserial")
    pty = pytest.importorskip("pty", reason="needs pseudo-terminals")
    device = rig.Device(device_code(tmp_path_factory), slot_bytes=SLOT_BYTES)
    device.put(0, old)
    device.boot()
    ours, theirs = pty.openpty()
    is_over = threading.Event()

    def serve() -> None:
        while not is_over.is_set():
            if select.select([ours], [], [], 0.05)[0]:
                os.write(ours, device.take(os.read(ours, 1024)))
                if device.is_rebooting:
                    device.boot()

    import tty

    tty.setraw(theirs)
    thread = threading.Thread(target=serve)
    thread.start()
    yield os.ttyname(theirs), device
    is_over.set()
    thread.join()
    os.close(ours)
    os.close(theirs)


def test_a_bundle_is_pushed_over_a_serial_port(terminal: tuple[str, Any], bundle: Path, new: bytes) -> None:
    path, device = terminal
    result = cli(bundle, "--port", path, "--baud", "460800", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["state"] == "confirmed"
    assert device.slot(1)[: len(new)] == new


def test_a_serial_port_that_is_in_use_or_not_there_is_told(terminal: tuple[str, Any], bundle: Path) -> None:
    path, _ = terminal
    holder = SerialPort(path)
    assert refusal(bundle, "--port", path).startswith(f"{path}: another program uses it")
    holder.close()
    assert refusal(bundle, "--port", path, "--baud", str(1 << 40)).startswith(f"{path}: ")
    assert "/dev/no-such-port: No such file or directory" in refusal(bundle, "--port", "/dev/no-such-port")


def test_nothing_at_the_address_is_told(bundle: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    assert refusal(bundle, "--tcp", f"127.0.0.1:{port}").startswith(f"127.0.0.1:{port}: Connection refused; is the")
    for address in ("nowhere", "host:0", "host:99999", ":1", "a..b:1", f"{'x' * 64}:1"):
        assert refusal(bundle, "--tcp", address) == f"{address}: expected host:port, such as 192.168.1.20:4000"


def test_a_silent_device_is_told(new: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = TcpPort(f"127.0.0.1:{server.getsockname()[1]}")
        with pytest.raises(LinkError, match=r"no answer in 0\.4 s; is the device on"):
            push(Link(port, patience=0.4), new)
        port.close()


def test_a_wrong_key_a_changed_or_cut_bundle_and_a_missing_one_are_told_before_a_port_is_opened(
    rig: Any, bundle: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.pub.pem"
    other.write_bytes(rig.signing_key(1).public.to_pem())
    nowhere = ("--tcp", "127.0.0.1:1")
    assert "signed with another key" in refusal(bundle, *nowhere, "--key", other)
    data = bundle.read_bytes()
    right = tmp_path / "right.pub.pem"
    right.write_bytes(rig.signing_key().public.to_pem())
    for name, harmed in (("cut", data[:-9]), ("changed", data[:400] + bytes([data[400] ^ 1]) + data[401:])):
        path = tmp_path / name
        path.write_bytes(harmed)
        assert refusal(path, *nowhere, "--key", right).startswith(f"{path}: ")
        assert refusal(path, *nowhere).startswith(f"{path}: ")
    assert refusal(tmp_path / "none", *nowhere).startswith(f"{tmp_path / 'none'}: expected a bundle")


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("--tcp", "a:1", "--port", "b"),
        ("--smp", "udp:a", "--from", "b"),
        ("--tcp", "a:1", "--baud", "0"),
    ],
)
def test_wrong_usage_is_told(words: tuple[str, ...], bundle: Path) -> None:
    assert cli(bundle, *words).exit_code == 2


def test_without_pyserial_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "serial", None)
    with pytest.raises(MissingPackageError, match=r"pip install 'edge_cl\[bridge\]'"):
        SerialPort("/dev/ttyUSB0")


def test_a_delta_over_the_command_line(rig: Any, device: Process, tmp_path: Path, old: bytes, bundle: Path) -> None:
    head = rig.make_head(10, 256)
    names = tuple(f"other {k}" for k in range(10))
    write_bundle(tmp_path / "a", Bundle(old), rig.signing_key())
    renamed = rig.make_blob(replace(head, version=2, classes=names))
    write_bundle(tmp_path / "b", Bundle(renamed), rig.signing_key())
    assert "--from is version 2" in refusal(tmp_path / "b", "--tcp", device.address, "--from", bundle)
    result = cli(tmp_path / "b", "--tcp", device.address, "--from", tmp_path / "a", "--json")
    facts = json.loads(result.stdout)
    assert facts["copied_bytes"] > 10 * 256 - 64
    assert facts["written_bytes"] < 128 + 10 * 8 + 200
    assert device.slot(1)[: len(renamed)] == renamed
