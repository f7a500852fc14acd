"""Where an update is computed: on this machine's processors, or on its GPU."""

from edge_cl.devices.choose import open_device
from edge_cl.devices.host import HOST, Device, namespace

__all__ = ["HOST", "Device", "namespace", "open_device"]
