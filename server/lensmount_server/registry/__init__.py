"""What is registered: the facts in a database, the packages in a blob store."""

from lensmount_server.registry.aliases import Change, Expected
from lensmount_server.registry.database import parse_url
from lensmount_server.registry.journal import NOBODY, By, Entry, Kind
from lensmount_server.registry.records import AliasState, Filter, Record
from lensmount_server.registry.registry import Collected, Places, Registry

__all__ = [
    "NOBODY",
    "AliasState",
    "By",
    "Change",
    "Collected",
    "Entry",
    "Expected",
    "Filter",
    "Kind",
    "Places",
    "Record",
    "Registry",
    "parse_url",
]
