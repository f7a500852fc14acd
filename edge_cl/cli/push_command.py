"""`edge-cl push`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from edge_cl.cli.options import AnyPath, json_option
from edge_cl.cli.output import progress, show_json, show_table
from edge_cl.errors import LinkError

if TYPE_CHECKING:
    from edge_firmware.keys import PublicKey


@click.command("push")
@click.argument("bundle", type=AnyPath())
@click.option("--port", metavar="DEVICE", help="Serial port, such as /dev/ttyUSB0 or COM3.")
@click.option("--tcp", metavar="HOST:PORT", help="TCP address of the device, or of a serial server.")
@click.option("--smp", metavar="WHERE", help="Zephyr device with mcumgr: serial:/dev/ttyACM0 or udp:host[:port].")
@click.option("--baud", type=click.IntRange(min=1), default=115_200, show_default=True, help="Of the serial port.")
@click.option("--slot", type=click.IntRange(0, 15), default=1, show_default=True, help="With --smp: MCUboot's image.")
@click.option("--from", "base", type=AnyPath(), metavar="BUNDLE", help="What the device runs: only changes are sent.")
@click.option("--key", type=AnyPath(), metavar="FILE", help="Public key that must have signed BUNDLE.")
@click.option("--no-reboot", is_flag=True, help="Leave it to the device when it starts the new head.")
@json_option
def command(bundle: str, port: str | None, tcp: str | None, smp: str | None, as_json: bool, **options: Any) -> None:
    """Send BUNDLE, which `edge-cl pack` wrote, to a device; after an interruption, go on where it stopped.

    What the device would refuse is refused before anything is sent: another product or backbone, a lower security
    counter, too many classes for its slot. The head that runs is never touched. With --smp, BUNDLE may be an image
    for MCUboot.
    """
    _check_places(port, tcp, smp, options)
    from edge_firmware.keys import PublicKey

    key = None if options["key"] is None else PublicKey.open(options["key"])
    with _told_when_interrupted():
        facts = _push_smp(bundle, smp, key, options) if smp is not None else _push(bundle, port, tcp, key, options)
    if as_json:
        show_json(facts)
        return
    if facts.pop("was_running", False):
        facts["state"] = "ran before"
    show_table("", list(facts), [list(facts.values())])


@contextmanager
def _told_when_interrupted() -> Iterator[None]:
    """Say what an interruption means here.

    Raises:
        LinkError: the user interrupts.
    """
    try:
        yield
    except KeyboardInterrupt:
        raise LinkError("interrupted; push again, and it goes on where it stopped") from None


def _check_places(port: str | None, tcp: str | None, smp: str | None, options: dict[str, Any]) -> None:
    if sum(place is not None for place in (port, tcp, smp)) != 1:
        raise click.UsageError("expected one of --port, --tcp and --smp: where the device is")
    if smp is not None and options["base"] is not None:
        raise click.UsageError("--from: mcumgr takes whole images; leave it out with --smp")


def _push(
    bundle: str, port: str | None, tcp: str | None, key: PublicKey | None, options: dict[str, Any]
) -> dict[str, Any]:
    """Return what a push over edge_link did."""
    from functools import partial

    from edge_firmware.bundle import read_bundle
    from edge_firmware.ports import SerialPort, TcpPort
    from edge_firmware.push import keep_pushing

    new = read_bundle(bundle, key)
    base = None if options["base"] is None else read_bundle(options["base"], key).blob
    open_port = partial(TcpPort, tcp or "") if port is None else partial(SerialPort, port, options["baud"])
    with _bar(len(new.blob)) as show:
        report = keep_pushing(open_port, new.blob, base=base, reboot=not options["no_reboot"], on_progress=show)
    return {"pushed": new.version, "classes": len(new.head.classes), **asdict(report)}


def _push_smp(bundle: str, where: str, key: PublicKey | None, options: dict[str, Any]) -> dict[str, Any]:
    """Return what an upload by mcumgr did."""
    from edge_firmware.smp import push_smp, read_upload

    data, head = read_upload(bundle, key)
    with _bar(len(data)) as show:
        report = push_smp(
            data,
            where,
            image=options["slot"],
            baud=options["baud"],
            reboot=not options["no_reboot"],
            on_progress=show,
        )
    return {"pushed": head.version, "classes": len(head.classes), **asdict(report)}


@contextmanager
def _bar(n_bytes: int) -> Iterator[Callable[[int], None]]:
    """Give a function to call with the bytes that have arrived, which may become fewer again."""
    arrived = 0
    with progress("pushing", n_bytes) as advance:

        def show(n_arrived: int) -> None:
            nonlocal arrived
            advance(n_arrived - arrived)
            arrived = n_arrived

        yield show
