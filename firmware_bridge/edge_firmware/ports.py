"""What a device is reached by: a serial port or a TCP connection."""

from __future__ import annotations

import errno
import os
import select
import socket
import time
from typing import Any, Protocol

from edge_cl.errors import LinkError, MissingPackageError, reason_of

BAUD = 115_200
MOST_READ = 65_536
CONNECT_SECONDS = 5.0


class PortLostError(LinkError):
    """A port that was open is gone: unplugged, or the other end closed it."""


class Port(Protocol):
    """Bytes to a device and from it, and the clock that waiting goes by."""

    name: str
    bytes_per_second: float | None  # of the line, where it is known

    def write(self, data: bytes) -> None:
        """Send the bytes."""

    def read(self, seconds: float) -> bytes:
        """Return what has come, waiting so long for the first byte; nothing where none came."""

    def clock(self) -> float:
        """Return seconds since some moment."""

    def close(self) -> None:
        """Give the port back."""


class SerialPort:
    """A serial port, 8 data bits, no parity, one stop bit."""

    def __init__(self, path: str, baud: int = BAUD) -> None:
        """Open it.

        Raises:
            LinkError: there is none, or another program has it.
            MissingPackageError: pyserial is not installed.
        """
        try:
            import serial  # type: ignore[import-untyped,unused-ignore]
        except ImportError:
            raise MissingPackageError(
                "pushing over a serial port needs pyserial, which is not installed: pip install 'edge_cl[bridge]'"
            ) from None
        self.name = path
        self.bytes_per_second: float | None = baud / 10
        try:
            self._serial: Any = serial.Serial(path, baud, timeout=0, write_timeout=30, exclusive=True)
            self._serial.reset_input_buffer()
        except (OSError, ValueError, OverflowError) as error:  # SerialException is an OSError; a baud rate of 33 bits
            raise LinkError(f"{path}: {_why(error)}; see the ports with: python -m serial.tools.list_ports") from None

    def write(self, data: bytes) -> None:
        """See `Port.write`.

        Raises:
            PortLostError: the port is gone.
        """
        try:
            self._serial.write(data)
        except OSError as error:
            raise PortLostError(f"{self.name}: {_why(error)}; plug the device in and push again") from None

    def read(self, seconds: float) -> bytes:
        """See `Port.read`.

        Raises:
            PortLostError: the port is gone.
        """
        try:
            self._serial.timeout = max(seconds, 0)
            first: bytes = self._serial.read(1)
            return first + self._serial.read(self._serial.in_waiting) if first else b""
        except OSError as error:
            raise PortLostError(f"{self.name}: {_why(error)}; plug the device in and push again") from None

    def clock(self) -> float:
        """See `Port.clock`."""
        return time.monotonic()

    def close(self) -> None:
        """See `Port.close`."""
        self._serial.close()


class TcpPort:
    """A TCP connection to a device, or to a serial server it hangs at."""

    def __init__(self, address: str) -> None:
        """Connect.

        Raises:
            LinkError: the address is none, or nothing listens there.
        """
        self.name = address
        self.bytes_per_second: float | None = None
        place = host_and_port(address)
        try:
            self._socket = socket.create_connection(place, CONNECT_SECONDS)
        except OSError as error:
            raise LinkError(f"{address}: {_why(error)}; is the device running, and this its address?") from None
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def write(self, data: bytes) -> None:
        """See `Port.write`.

        Raises:
            PortLostError: the connection is gone.
        """
        try:
            self._socket.sendall(data)
        except OSError as error:
            raise PortLostError(f"{self.name}: {_why(error)}; push again to go on from there") from None

    def read(self, seconds: float) -> bytes:
        """See `Port.read`.

        Raises:
            PortLostError: the connection is gone.
        """
        try:
            if not select.select([self._socket], [], [], max(seconds, 0))[0]:
                return b""
            data = self._socket.recv(MOST_READ)
        except OSError as error:
            raise PortLostError(f"{self.name}: {_why(error)}; push again to go on from there") from None
        if not data:
            raise PortLostError(f"{self.name}: the device closed the connection; push again to go on from there")
        return data

    def clock(self) -> float:
        """See `Port.clock`."""
        return time.monotonic()

    def close(self) -> None:
        """See `Port.close`."""
        self._socket.close()


def host_and_port(address: str, default: int | None = None) -> tuple[str, int]:
    """Return host and port of `host:port`; an IPv6 host stands in brackets.

    Raises:
        LinkError: it is none.
    """
    host, colon, port = address.rpartition(":")
    if (not colon or address.endswith("]")) and default is not None:
        host, port = address, str(default)
    try:
        host.encode("idna")  # as sockets do, whose error of it is none of the system
    except UnicodeError:
        host = ""
    if not host or not port.isdecimal() or not 0 < int(port) < 1 << 16:
        raise LinkError(f"{address}: expected host:port, such as 192.168.1.20:4000")
    return host.strip("[]"), int(port)


def _why(error: Exception) -> str:
    """Return the reason of an error of the system, in its words."""
    number = getattr(error, "errno", None)
    if number in {errno.EAGAIN, errno.EBUSY}:
        return "another program uses it"
    return os.strerror(number) if number is not None and number > 0 else reason_of(error)
