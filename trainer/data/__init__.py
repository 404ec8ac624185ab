"""Training data on the device: classification images, label maps, boxes, and their augmentation."""

from trainer.data.boxes import Boxes, BoxSet, BoxViews
from trainer.data.images import Batches, ImageSet, read_images, watched_views
from trainer.data.maps import MapSet, MapViews
from trainer.data.order import SAMPLE_EPOCH, Epoch, Order

__all__ = [
    "SAMPLE_EPOCH",
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
