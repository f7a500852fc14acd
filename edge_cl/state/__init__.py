"""The state file: one SQLite database that holds all a learner knows."""

from edge_cl.state.file import StateFile
from edge_cl.state.opening import MEMORY, TIMEOUT
from edge_cl.state.schema import DEVICES, HISTORY_BYTES, PRECISIONS, STRENGTHS, Settings, check_device
from edge_cl.state.versions import KINDS, Version, utc_now

__all__ = [
    "DEVICES",
    "HISTORY_BYTES",
    "KINDS",
    "MEMORY",
    "PRECISIONS",
    "STRENGTHS",
    "TIMEOUT",
    "Settings",
    "StateFile",
    "Version",
    "check_device",
    "utc_now",
]
