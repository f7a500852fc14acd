"""Where an update is computed: on this machine's processors, or on its GPU."""

from edge_cl.devices.choose import ChosenDevice
from edge_cl.devices.host import HOST, Device, namespace

__all__ = ["HOST", "ChosenDevice", "Device", "namespace"]
