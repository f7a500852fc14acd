"""A head to a device with Zephyr's mcumgr: the real smpclient against a server of the `smp` package's messages."""

from __future__ import annotations

import hashlib
import json
import os
import select
import socket
import struct
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from edge_firmware.bundle import Bundle, write_bundle
from edge_firmware.smp import push_smp, read_upload

from edge_cl.cli import main
from edge_cl.errors import BundleError, InputError, LinkError, MissingPackageError

from .link_rigs import load_tool

pytest.importorskip("smpclient", reason="needs smpclient")
HEADER_BYTES = 32
IMAGE_MAGIC = 0x96F3B83D


@dataclass
class Server:
    """A device with mcumgr: image management, and the parameters and the reset of its system."""

    takes_any: bool = False
    lost: set[int] = field(default_factory=set)  # requests, by their numbers, whose answers get lost
    data: bytearray = field(default_factory=bytearray)
    image: int | None = None
    sha: bytes | None = None
    length: int = 0
    tested: bytes | None = None
    n_resets: int = 0
    n_requests: int = 0
    received: int = 0

    def answer(self, request: bytes) -> bytes | None:
        """Return the answer to a request; None where it is lost."""
        import cbor2
        from smp import header, image_management, os_management

        self.n_requests += 1
        head = header.Header.loads(request[: header.Header.SIZE])
        values = cbor2.loads(request[header.Header.SIZE :])
        group, command = int(head.group_id), int(head.command_id)
        made: Any
        if (group, command) == (0, 6):
            made = os_management.MCUMgrParametersReadResponse(buf_size=512, buf_count=4, sequence=head.sequence)
        elif (group, command) == (0, 5):
            self.n_resets += 1
            made = os_management.ResetWriteResponse(sequence=head.sequence)
        elif command == 1:
            made = self.upload(values, head.sequence)
        else:
            self.tested = values.get("hash", self.tested)
            kinds = (image_management.ImageStatesReadResponse, image_management.ImageStatesWriteResponse)
            made = kinds[int(head.op) == 2](images=self.images(), sequence=head.sequence)
        return None if self.n_requests in self.lost else bytes(made)

    def upload(self, values: dict[str, Any], sequence: int) -> Any:
        """Take a part in its order, as img_mgmt does: one upload is known by its sha, and goes on where it stopped."""
        from smp import image_management as im

        if values["off"] == 0:
            if not self.takes_any and values["data"][:4] != struct.pack("<I", IMAGE_MAGIC):
                return refusal(int(im.IMG_MGMT_ERR.INVALID_IMAGE_HEADER_MAGIC), sequence)
            if values.get("sha") != self.sha or not self.data:
                self.data, self.sha, self.image = bytearray(), values.get("sha"), values.get("image")
                self.length = values["len"]
        if values["off"] == len(self.data):
            self.data += values["data"]
            self.received += len(values["data"])
        done = len(self.data) == self.length
        match = hashlib.sha256(self.data).digest() == self.sha if done else None
        return im.ImageUploadWriteResponse(off=len(self.data), match=match, sequence=sequence)

    def images(self) -> list[Any]:
        """Return what runs, and what was uploaded."""
        running: Any = {"slot": 0, "image": 0, "version": "1.0.0", "hash": bytes(32), "active": True, "confirmed": True}
        if not self.data or len(self.data) != self.length:
            return [running]
        mine: Any = {
            "slot": 1,
            "image": self.image or 0,
            "version": "0.0.2",
            "hash": hashlib.sha256(self.data).digest(),
        }
        return [running, mine]


def refusal(reason: int, sequence: int) -> bytes:
    """Return an error of image management, of SMP's version 2."""
    import cbor2
    from smp import header

    values = cbor2.dumps({"err": {"group": 1, "rc": reason}})
    head = header.Header(
        op=header.OP.WRITE_RSP,
        version=header.Version.V2,
        flags=header.Flag(0),
        length=len(values),
        group_id=header.GroupId.IMAGE_MANAGEMENT,
        sequence=sequence,
        command_id=header.CommandId.ImageManagement.UPLOAD,
    )
    return bytes(head) + values


class Udp:
    """A server at a UDP port."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.where = f"udp:127.0.0.1:{self.socket.getsockname()[1]}"
        self.is_over = False
        self.thread = threading.Thread(target=self.serve)
        self.thread.start()

    def serve(self) -> None:
        while not self.is_over:
            if select.select([self.socket], [], [], 0.02)[0]:
                data, host = self.socket.recvfrom(65536)
                answer = self.server.answer(data)
                if answer is not None:
                    self.socket.sendto(answer, host)

    def close(self) -> None:
        self.is_over = True
        self.thread.join()
        self.socket.close()


@pytest.fixture
def udp() -> Iterator[Udp]:
    made = Udp(Server())
    yield made
    made.close()


@pytest.fixture(scope="module")
def rig() -> Any:
    return load_tool("link_rig")


@pytest.fixture(scope="module")
def blob(rig: Any) -> bytes:
    return bytes(rig.make_blob(replace(rig.make_head(10, 256), version=2)))


def wrapped(blob: bytes) -> bytes:
    """Return an image: MCUboot's header, the blob, and something behind it that stands for its TLVs."""
    header = struct.pack("<IIHHIIBBHII", IMAGE_MAGIC, 0, HEADER_BYTES, 0, len(blob), 0, 0, 0, 2, 0, 0)
    return header + blob + b"\x07\x69\x04\x00"


def test_an_image_is_uploaded_tried_and_started(udp: Udp, blob: bytes) -> None:
    arrived: list[int] = []
    report = push_smp(wrapped(blob), udp.where, on_progress=arrived.append)
    assert bytes(udp.server.data) == wrapped(blob)
    assert udp.server.image == 1
    assert udp.server.tested == hashlib.sha256(wrapped(blob)).digest()
    assert udp.server.n_resets == 1
    assert report.state == "pending"
    assert arrived[-1] == len(wrapped(blob))
    assert len(arrived) > 2


def test_an_image_that_is_to_wait_is_not_tried(udp: Udp, blob: bytes) -> None:
    assert push_smp(wrapped(blob), udp.where, reboot=False).state == "waits"
    assert udp.server.tested is None
    assert udp.server.n_resets == 0


def test_lost_answers_are_asked_for_again_and_no_byte_goes_twice(
    udp: Udp, blob: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge_firmware.smp.SECONDS", 0.3)
    udp.server.lost = {2, 6, 9}
    push_smp(wrapped(blob), udp.where)
    assert bytes(udp.server.data) == wrapped(blob)
    assert udp.server.received == len(wrapped(blob))
    assert udp.server.n_resets == 1


def test_an_upload_goes_on_where_the_last_one_stopped(udp: Udp, blob: bytes) -> None:
    image = wrapped(blob)
    udp.server.data, udp.server.sha, udp.server.length = bytearray(image[:2000]), hashlib.sha256(image).digest(), 0
    udp.server.length, udp.server.image = len(image), 1
    push_smp(image, udp.where)
    assert udp.server.received == len(image) - 2000
    assert bytes(udp.server.data) == image


def test_a_device_that_takes_images_for_mcuboot_alone_says_so(udp: Udp, blob: bytes) -> None:
    with pytest.raises(LinkError, match="refused the image: it takes images for MCUboot; make one: edge-cl wrap"):
        push_smp(blob, udp.where)


def test_a_silent_device_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge_firmware.smp.SECONDS", 0.1)
    silent = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    silent.bind(("127.0.0.1", 0))
    with pytest.raises(LinkError, match="no answer; is the device on, and mcumgr in its firmware"):
        push_smp(b"image", f"udp:127.0.0.1:{silent.getsockname()[1]}")
    silent.close()


@pytest.mark.parametrize("where", ["udp", "udp:", "ble:thing", "serial:", "/dev/ttyACM0"])
def test_a_place_that_is_none_is_told(where: str) -> None:
    with pytest.raises(InputError, match=r"--smp: expected serial:PATH or udp:HOST\[:PORT\]; found"):
        push_smp(b"image", where)


def test_an_error_without_words_is_told_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(*_: object) -> None:
        raise ConnectionResetError

    monkeypatch.setattr("smpclient.SMPClient.connect", fail)
    with pytest.raises(LinkError, match=r"udp:127\.0\.0\.1: ConnectionResetError$"):
        push_smp(b"image", "udp:127.0.0.1")
    with pytest.raises(LinkError, match=r"a\.\.b: expected host:port"):
        push_smp(b"image", "udp:a..b")


def test_an_endless_file_is_no_upload() -> None:
    with pytest.raises(BundleError, match=r"/dev/zero: expected at most 67108864 bytes; found more"):
        read_upload("/dev/zero")


def test_a_serial_port_that_is_not_there_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge_firmware.smp.SECONDS", 0.1)
    with pytest.raises(LinkError, match="serial:/dev/no-such-port: "):
        push_smp(b"image", "serial:/dev/no-such-port")


def test_over_a_serial_port_the_same_arrives(blob: bytes) -> None:
    pty = pytest.importorskip("pty", reason="needs pseudo-terminals")
    import tty

    from smp import packet

    server, (ours, theirs) = Server(), pty.openpty()
    tty.setraw(theirs)
    is_over = threading.Event()

    def serve() -> None:
        decoder, rest = None, b""
        while not is_over.is_set():
            if not select.select([ours], [], [], 0.02)[0]:
                continue
            *lines, rest = (rest + os.read(ours, 4096)).split(b"\n")
            for line in lines:
                if decoder is None:
                    decoder = packet.decode()
                    next(decoder)
                try:
                    decoder.send(line + b"\n")
                except StopIteration as whole:
                    decoder = None
                    answer = server.answer(whole.value)
                    for part in packet.encode(answer or b""):
                        os.write(ours, part)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        assert push_smp(wrapped(blob), f"serial:{os.ttyname(theirs)}").state == "pending"
    finally:
        is_over.set()
        thread.join()
        os.close(ours)
        os.close(theirs)
    assert bytes(server.data) == wrapped(blob)


def test_the_command_pushes_bundles_and_images(udp: Udp, blob: bytes, rig: Any, tmp_path: Path) -> None:
    (tmp_path / "image").write_bytes(wrapped(blob))
    result = CliRunner().invoke(main, ["push", str(tmp_path / "image"), "--smp", udp.where, "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout) == {
        "pushed": 2,
        "classes": 10,
        "image_bytes": len(wrapped(blob)),
        "state": "pending",
    }
    udp.server.takes_any = True
    write_bundle(tmp_path / "bundle", Bundle(blob), rig.signing_key())
    result = CliRunner().invoke(main, ["push", str(tmp_path / "bundle"), "--smp", udp.where, "--slot", "3"])
    assert result.exit_code == 0, result.output
    assert bytes(udp.server.data) == blob
    assert udp.server.image == 3


def test_an_image_whose_head_is_cut_changed_or_of_another_key_is_refused(blob: bytes, rig: Any, tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(wrapped(blob))
    data, head = read_upload(path, rig.signing_key().public)
    assert (data, head.version) == (wrapped(blob), 2)
    with pytest.raises(BundleError, match="signed with another key"):
        read_upload(path, rig.signing_key(1).public)
    for harmed, why in (
        (wrapped(blob)[:900], "the blob is cut short"),
        (wrapped(blob)[:10], "the image is cut short"),
        (wrapped(blob[:500] + bytes([blob[500] ^ 1]) + blob[501:]), "the checksum does not match"),
        (wrapped(b"firmware, not a head" * 20), "this is no head blob"),
    ):
        path.write_bytes(harmed)
        with pytest.raises(BundleError, match=why):
            read_upload(path)
    with pytest.raises(BundleError, match="expected a bundle or an image for MCUboot"):
        read_upload(tmp_path / "none")


def test_an_image_of_imgtool_is_read(blob: bytes, rig: Any, tmp_path: Path) -> None:
    pytest.importorskip("imgtool", reason="needs imgtool")
    from edge_firmware.mcuboot import Image, wrap

    write_bundle(tmp_path / "bundle", Bundle(blob), rig.signing_key())
    wrap(tmp_path / "bundle", tmp_path / "image", Image(slot_bytes=1 << 16))
    data, head = read_upload(tmp_path / "image", rig.signing_key().public)
    assert data == (tmp_path / "image").read_bytes()
    assert head.version == 2


def test_without_smpclient_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "smpclient", None)
    with pytest.raises(MissingPackageError, match=r"pip install 'edge_cl\[smp\]'"):
        push_smp(b"image", "udp:host")
