"""A head into a device with Zephyr's mcumgr, over its Simple Management Protocol (SMP), by smpclient.

What goes there is an image for MCUboot, as `edge-cl wrap` makes it: mcumgr takes no others unless a device's
firmware has a way of its own.
"""

from __future__ import annotations

import asyncio
import logging
import os
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_cl.errors import BundleError, InputError, LinkError, MissingPackageError, first_line, reason_of
from edge_firmware.blob import Blob, read_blob, signed_message
from edge_firmware.bundle import MOST_BYTES, check_key, read_bundle
from edge_firmware.formats import SIGNATURE_BYTES
from edge_firmware.keys import PublicKey
from edge_firmware.mcuboot import MAGIC
from edge_firmware.ports import BAUD, host_and_port

UDP_PORT = 1337  # Zephyr's CONFIG_MCUMGR_TRANSPORT_UDP_PORT
SECONDS = 5.0  # for an answer
ERASE_SECONDS = 20.0  # for the first: a device may erase the whole slot before it
ATTEMPTS = 3
HEADER = struct.Struct(
    "<4sIHHI"
)  # of an image: magic, load address, bytes of the header, of protected TLVs, and within


@dataclass(frozen=True)
class SmpReport:
    """What an upload did.

    Attributes:
        image_bytes: that lie in the slot.
        state: `pending` (MCUboot tries it now), or `waits` for someone to choose it.
    """

    image_bytes: int
    state: str


def push_smp(
    data: bytes,
    where: str,
    *,
    image: int = 1,
    baud: int = BAUD,
    reboot: bool = True,
    on_progress: Callable[[int], object] = int,
) -> SmpReport:
    """Upload an image, have MCUboot try it, and restart the device.

    Args:
        data: the bytes.
        where: `serial:PATH` or `udp:HOST[:PORT]`.
        image: number of the image in MCUboot; 0 is the firmware itself.
        baud: of a serial port.
        reboot: whether it is to be tried now.
        on_progress: called with the bytes that the device has.

    Raises:
        LinkError: the device is silent, or refuses.
        MissingPackageError: smpclient is not installed.
    """
    try:
        import smpclient
        import smpclient.exceptions
    except ImportError:
        raise MissingPackageError("SMP needs smpclient, which is not installed: pip install 'edge_cl[smp]'") from None
    transport, address = _transport(where, baud)
    logging.getLogger("smpclient").setLevel(logging.CRITICAL)  # it logs as errors what is told in one line here
    upload = _Upload(smpclient.SMPClient(transport, address, timeout_s=SECONDS), data, image, on_progress)
    try:
        return asyncio.run(upload.run(reboot))
    except smpclient.exceptions.SMPUploadError as error:
        raise LinkError(f"{where}: the device refused the image: {_reason(error.args)}") from None
    except (TimeoutError, asyncio.TimeoutError):
        raise LinkError(f"{where}: no answer; is the device on, and mcumgr in its firmware?") from None
    except (OSError, smpclient.exceptions.SMPClientException) as error:
        raise LinkError(f"{where}: {first_line(error)}") from None


class _Upload:
    """One image on its way; where an answer is lost it is asked for again, and the device says where it stands."""

    def __init__(self, client: Any, data: bytes, image: int, on_progress: Callable[[int], object]) -> None:
        self.client, self.data, self.image, self.on_progress = client, data, image, on_progress

    async def run(self, reboot: bool) -> SmpReport:
        """Upload; then, if asked for, have it tried."""
        from smpclient.requests.image_management import ImageStatesRead

        await self.client.connect()
        try:
            await self._ask(ImageStatesRead)  # is anyone there? The first part of an upload may take long
            await self._repeat(self._upload)
            is_pending = reboot and await self._try()
        finally:
            await self.client.disconnect()
        return SmpReport(len(self.data), "pending" if is_pending else "waits")

    async def _upload(self) -> None:
        async for offset in self.client.upload(self.data, slot=self.image, first_timeout_s=ERASE_SECONDS):
            self.on_progress(offset)

    async def _try(self) -> bool:
        """Have MCUboot try the image at the next start, and start; return whether there was one to try."""
        from smpclient.generics import success
        from smpclient.requests.image_management import ImageStatesRead, ImageStatesWrite
        from smpclient.requests.os_management import ResetWrite

        states = await self._ask(ImageStatesRead)
        images: list[Any] = states.images if success(states) else []
        ours = [state for state in images if (state.image or 0) == self.image and not state.active and state.hash]
        if not ours or not success(await self._ask(ImageStatesWrite, hash=ours[0].hash)):
            return False
        await self._ask(ResetWrite)
        return True

    async def _ask(self, request: Callable[..., Any], **values: Any) -> Any:
        """Return the answer to a request."""
        return await self._repeat(lambda: self.client.request(request(**values)))

    async def _repeat(self, act: Callable[[], Any]) -> Any:
        """Return what an action gives, done again where an answer is lost or late."""
        from smpclient.exceptions import SMPBadSequence

        for _ in range(ATTEMPTS - 1):
            try:
                return await act()
            except (TimeoutError, asyncio.TimeoutError, SMPBadSequence):  # two of them before Python 3.11
                continue
        return await act()


def read_upload(path: str | os.PathLike[str], key: PublicKey | None = None) -> tuple[bytes, Blob]:
    """Return what is to be uploaded of a file, and the head in it: an image for MCUboot as it is, of a bundle the blob.

    Raises:
        BundleError: it is neither, damaged, or signed with another key.
    """
    try:
        with Path(path).open("rb") as file:
            data = file.read(MOST_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = reason_of(error)
        raise BundleError(f"{path}: expected a bundle or an image for MCUboot: {reason}") from None
    if len(data) > MOST_BYTES:
        raise BundleError(f"{path}: expected at most {MOST_BYTES} bytes; found more")
    if data[:4] != MAGIC:
        bundle = read_bundle(path, key)
        return bundle.blob, bundle.head
    if len(data) < HEADER.size:
        raise BundleError(f"{path}: the image is cut short; make it again: edge-cl wrap")
    _, _, header_bytes, _, n_bytes = HEADER.unpack_from(data)
    blob = data[header_bytes : header_bytes + n_bytes]
    try:
        head = read_blob(blob)
        if key is not None:
            check_key(head.key_id, key)
            key.verify(signed_message(blob[:-SIGNATURE_BYTES]), blob[-SIGNATURE_BYTES:])
    except BundleError as error:
        raise BundleError(f"{path}: {error}; make it again: edge-cl wrap") from None
    return data, head


def _transport(where: str, baud: int) -> tuple[Any, str]:
    """Return smpclient's transport and address of a place.

    Raises:
        InputError: it is none.
        MissingPackageError: pyserial is not installed.
        LinkError: there is no such port.
    """
    kind, _, address = where.partition(":")
    if kind == "udp" and address:
        from smpclient.transport.udp import SMPUDPTransport

        host, port = host_and_port(address, UDP_PORT)

        class Udp(SMPUDPTransport):
            """Its `connect`, with the port that was asked for."""

            async def connect(self, address: str, timeout_s: float, port: int = port) -> None:
                await super().connect(address, timeout_s, port)

        return Udp(), host
    if kind == "serial" and address:
        try:
            from smpclient.transport.serial import SMPSerialTransport
        except ImportError:
            raise MissingPackageError(
                "SMP over a serial port needs pyserial, which is not installed: pip install 'edge_cl[smp]'"
            ) from None
        if not os.path.exists(address):
            raise LinkError(f"{where}: there is no such port; is the device plugged in?")
        return SMPSerialTransport(baudrate=baud), address
    raise InputError(f"--smp: expected serial:PATH or udp:HOST[:PORT]; found {where!r}")


def _reason(parts: tuple[Any, ...]) -> str:
    """Return why a device refused, in the names of its protocol."""
    response = parts[0] if parts else None
    number = getattr(getattr(response, "err", None), "rc", None) or getattr(response, "rc", None)
    name = getattr(number, "name", None)
    if name == "INVALID_IMAGE_HEADER_MAGIC":
        return "it takes images for MCUboot; make one: edge-cl wrap"
    return str(name or number or response).splitlines()[0]
