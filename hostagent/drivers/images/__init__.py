"""Brings images from the hosts that hold them to this one."""

from hostagent.drivers.images.cache import ImageCache, ImagePaths
from hostagent.drivers.images.peers import PeerReader

__all__ = ["ImageCache", "ImagePaths", "PeerReader"]
