"""Pictures in: listed in one of the formats people have, read once, and cut into parts."""

from lensmount_training.data.dataset import Dataset, Facts, Picture, Pictures
from lensmount_training.data.listing import Content, Entry, Kind, Listing, Skipped

__all__ = ["Content", "Dataset", "Entry", "Facts", "Kind", "Listing", "Picture", "Pictures", "Skipped"]
