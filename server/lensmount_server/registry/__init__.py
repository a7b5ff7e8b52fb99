"""What is registered, on disk: SQLite for the facts, a folder for the packages."""

from lensmount_server.registry.registry import Record, Registry

__all__ = ["Record", "Registry"]
