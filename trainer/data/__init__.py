"""Readers of data sets and the batches of a training run."""

from trainer.data.images import Batches, ImageSet, read_images

__all__ = ["Batches", "ImageSet", "read_images"]
