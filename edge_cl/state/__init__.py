"""The state file: one SQLite database that holds all a learner knows."""

from edge_cl.state.file import MEMORY, StateFile
from edge_cl.state.schema import DEVICES, PRECISIONS, Settings, Version, check_device, utc_now

__all__ = ["DEVICES", "MEMORY", "PRECISIONS", "Settings", "StateFile", "Version", "check_device", "utc_now"]
