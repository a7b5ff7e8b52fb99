"""The settings of a server: one description of each, read from flags, the environment and a file."""

from lensmount_server.settings.layers import Problem
from lensmount_server.settings.model import Settings
from lensmount_server.settings.reading import Found, Reading, read

__all__ = ["Found", "Problem", "Reading", "Settings", "read"]
