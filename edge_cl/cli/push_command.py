"""`edge-cl push`."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from edge_cl.cli.options import AnyPath, json_option
from edge_cl.cli.output import progress, show_json, show_table

if TYPE_CHECKING:
    from edge_firmware.bundle import Bundle
    from edge_firmware.ports import Port


@click.command("push")
@click.argument("bundle", type=AnyPath())
@click.option("--port", metavar="DEVICE", help="Serial port, such as /dev/ttyUSB0 or COM3.")
@click.option("--tcp", metavar="HOST:PORT", help="TCP address of the device, or of a serial server.")
@click.option("--smp", metavar="WHERE", help="Zephyr device with mcumgr: serial:/dev/ttyACM0 or udp:host[:port].")
@click.option("--baud", type=click.IntRange(min=1), default=115_200, show_default=True, help="Of the serial port.")
@click.option("--slot", type=click.IntRange(0, 255), default=1, show_default=True, help="Image number, with --smp.")
@click.option("--from", "base", type=AnyPath(), metavar="BUNDLE", help="What the device runs: only changes are sent.")
@click.option("--key", type=AnyPath(), metavar="FILE", help="Public key that must have signed BUNDLE.")
@click.option("--no-reboot", is_flag=True, help="Leave it to the device when it starts the new head.")
@json_option
def command(bundle: str, port: str | None, tcp: str | None, smp: str | None, as_json: bool, **options: Any) -> None:
    """Send BUNDLE, which `edge-cl pack` wrote, to a device; after an interruption, go on where it stopped.

    What the device would refuse is refused before anything is sent: another product or backbone, a lower security
    counter, too many classes for its slot. The head that runs is never touched.
    """
    _check_one(port, tcp, smp)
    from edge_firmware.bundle import read_bundle
    from edge_firmware.keys import PublicKey
    from edge_firmware.ports import SerialPort, TcpPort

    key = None if options["key"] is None else PublicKey.open(options["key"])
    new = read_bundle(bundle, key)
    old = None if options["base"] is None else read_bundle(options["base"])
    opened: Port = SerialPort(port, options["baud"]) if port is not None else TcpPort(tcp or "")
    try:
        facts = _push(opened, new, old, is_rebooted=not options["no_reboot"])
    finally:
        opened.close()
    if as_json:
        show_json(facts)
    else:
        show_table("", list(facts), [list(facts.values())])


def _check_one(*places: str | None) -> None:
    if sum(place is not None for place in places) != 1:
        raise click.UsageError("expected one of --port, --tcp and --smp: where the device is")


def _push(port: Port, new: Bundle, old: Bundle | None, *, is_rebooted: bool) -> dict[str, Any]:
    """Return what a push did, for a table."""
    from edge_firmware.link import Link
    from edge_firmware.push import push

    with progress("pushing", len(new.blob)) as advance:
        done = 0

        def show(place: int) -> None:
            nonlocal done
            advance(place - done)
            done = place

        report = push(
            Link(port), new.blob, base=None if old is None else old.blob, reboot=is_rebooted, on_progress=show
        )
    return asdict(report) | {"pushed": new.version, "classes": len(new.head.classes)}
