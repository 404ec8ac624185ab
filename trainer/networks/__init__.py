"""Networks as graphs, and the customary names of their FP32 weights."""

from trainer.networks.mobilenet_cifar import mobilenet_cifar
from trainer.networks.pyramid import Pyramid, encoder_classifier
from trainer.networks.resnet_cifar import resnet_cifar

__all__ = ["Pyramid", "encoder_classifier", "mobilenet_cifar", "resnet_cifar"]
