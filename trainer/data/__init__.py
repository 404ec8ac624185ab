"""Training data on the device: classification images, label maps, boxes, and their augmentation."""

from trainer.data.boxes import Boxes, BoxSet, BoxViews
from trainer.data.images import Batches, ImageSet, read_images, watched_views
from trainer.data.maps import MapSet, MapViews
from trainer.data.order import Epoch, Order

__all__ = [
    "Batches",
    "BoxSet",
    "BoxViews",
    "Boxes",
    "Epoch",
    "ImageSet",
    "MapSet",
    "MapViews",
    "Order",
    "read_images",
    "watched_views",
]
