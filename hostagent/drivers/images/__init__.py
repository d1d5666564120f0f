"""Brings images from the hosts that hold them to this one."""

from hostagent.drivers.images.bandwidth import Bandwidth
from hostagent.drivers.images.cache import ImageCache, ImagePaths

__all__ = ["Bandwidth", "ImageCache", "ImagePaths"]
