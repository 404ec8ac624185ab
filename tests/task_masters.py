"""A small master of random weights for each task but classification, for tests of what surrounds a network."""

import dataclasses

from bitgear.bits import WIDTHS
from bitgear.checkpoint import Master
from bitgear.graph import IMAGE, Conv, Graph
from bitgear.inputs import InputRecord
from tests.masters import tiny_master

BOX_LABELS = ("red, round", "7", "bag", "hat")
"""A name with a comma in it, and one that is another class's id."""

AREA_LABELS = ("sky", "road", "tree", "car", "sign")


def boxes_master(name: str = "boxes") -> Master:
    """A detector of four classes with one map of stride 8, for pictures of 64 x 48 pixels."""
    graph = Graph(
        (
            Conv("stem", IMAGE, 8, 3, stride=2, padding=1, bits=8),
            Conv("a", "stem", 8, 3, stride=2, padding=1),
            Conv("b", "a", 16, 3, stride=2, padding=1),
            Conv("head", "b", len(BOX_LABELS) + 4, 3, padding=1, relu=False, bits=8),
        )
    )
    accuracy = {bits: {"map50_95": 0.2 + bits / 100, "map50": 0.4 + bits / 100, "images": 50} for bits in WIDTHS}
    return dataclasses.replace(_wide(graph, name), task="detect", labels=BOX_LABELS, accuracy=accuracy)


def areas_master(name: str = "areas") -> Master:
    """A segmenter of five classes with logits at stride 4, for pictures of 64 x 48 pixels."""
    graph = Graph(
        (
            Conv("stem", IMAGE, 8, 3, stride=2, padding=1, bits=8),
            Conv("a", "stem", 16, 3, stride=2, padding=1),
            Conv("head", "a", len(AREA_LABELS), 3, padding=1, relu=False, bits=8),
        )
    )
    accuracy = {bits: {"miou": 0.5 + bits / 100, "pixel_accuracy": 0.8 + bits / 100, "images": 50} for bits in WIDTHS}
    return dataclasses.replace(_wide(graph, name), task="segment", labels=AREA_LABELS, accuracy=accuracy)


def _wide(graph: Graph, name: str) -> Master:
    """Return a master whose input is wider than high: sides that are mixed up show."""
    square = tiny_master(graph=graph, name=name)
    # What the picture says outweighs what a class or a side has by itself: answers differ from place to place.
    head = {"head.gain": square.tensors["head.gain"] * 4, "head.bias": square.tensors["head.bias"] / 4}
    return dataclasses.replace(
        square,
        tensors={**square.tensors, **head},
        input=dataclasses.replace(InputRecord.centred(64, 128), height_px=48),
    )
