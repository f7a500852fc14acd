"""The state file: one SQLite database that holds all a learner knows."""

from edge_cl.state.file import MEMORY, StateFile
from edge_cl.state.schema import DEVICES, Settings, Version

__all__ = ["DEVICES", "MEMORY", "Settings", "StateFile", "Version"]
