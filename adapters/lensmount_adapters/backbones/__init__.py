"""Backbones as lists of segments, known by name and by the hash of their weights."""

from lensmount_adapters.backbones.backbone import Backbone
from lensmount_adapters.backbones.segments import Segment
from lensmount_adapters.backbones.weights import load_backbone

__all__ = ["Backbone", "Segment", "load_backbone"]
