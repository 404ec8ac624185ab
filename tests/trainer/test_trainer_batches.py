"""The batches of an epoch: the same for the same seed, complete, and shared out without overlap."""

import numpy as np
import pytest
import torch

from bitgear.inputs import InputRecord
from bitgear.tasks.datasets import LabelledImages
from trainer.config import ConfigError
from trainer.data import Batches, ImageSet, Order, read_images


def image_set(count: int, side_px: int = 4) -> ImageSet:
    """Pictures of one value each; the label is the index."""
    codes = (torch.arange(count) % 255 - 127).to(torch.int8).view(-1, 1, 1, 1).expand(count, 3, side_px, side_px)
    return ImageSet(codes.contiguous(), torch.arange(count))


def batches(data: ImageSet, size: int, **options: int) -> Batches:
    return Batches(data, size, **({"shift_px": 0, "mirror": False, "seed": 1, "epoch": 0} | options))


def labels_of(made: Batches) -> list[int]:
    return [int(label) for _, labels in made for label in labels]


def test_images_are_read_through_the_input_table() -> None:
    record = InputRecord(5, 5, (0.4, 0.5, 0.6), (0.2, 0.25, 0.3), 0.02)
    pixels = np.random.default_rng(0).integers(0, 256, (4, 5, 5, 3)).astype(np.uint8)
    images = read_images(LabelledImages(pixels, np.arange(4), ("a",)), torch.tensor(record.table()))
    np.testing.assert_array_equal(images.codes.numpy(), record.encode(pixels))
    assert images.labels.tolist() == [0, 1, 2, 3]
    assert len(images) == 4


@pytest.mark.parametrize("options", [{}, {"shift_px": 2, "mirror": True}])
def test_the_same_seed_and_epoch_give_the_same_batches(options: dict[str, int]) -> None:
    data = image_set(20)
    data.codes.copy_(torch.randint(-128, 128, data.codes.shape, generator=torch.Generator().manual_seed(0)))
    first, again = (list(batches(data, 8, **options)) for _ in range(2))
    assert len(first) == 2
    for (codes, labels), (same_codes, same_labels) in zip(first, again, strict=True):
        assert torch.equal(codes, same_codes)
        assert torch.equal(labels, same_labels)


@pytest.mark.parametrize("other", [{"epoch": 1}, {"seed": 2}])
def test_another_seed_or_epoch_gives_another_order(other: dict[str, int]) -> None:
    data = image_set(64)
    assert labels_of(batches(data, 8)) != labels_of(batches(data, 8, **other))


@pytest.mark.parametrize(("count", "size"), [(24, 8), (25, 8), (31, 8), (8, 8), (5, 8), (2, 8)])
def test_an_epoch_shows_each_image_once_but_for_an_incomplete_last_batch(count: int, size: int) -> None:
    data = image_set(count)
    made = batches(data, size)
    labels = labels_of(made)
    assert len(set(labels)) == len(labels) == (count // size * size if count >= size else count)
    assert len(made) == len(list(made))
    for codes, row in batches(data, size):  # every image stays with its label
        assert (codes[:, 0, 0, 0].long() == row % 255 - 127).all()


@pytest.mark.parametrize(("count", "size", "processes"), [(32, 8, 2), (33, 8, 2), (40, 12, 3), (6, 8, 2), (4, 64, 4)])
def test_processes_get_disjoint_shares_of_the_same_step(count: int, size: int, processes: int) -> None:
    data = image_set(count)
    shares = [batches(data, size, rank=rank, processes=processes) for rank in range(processes)]
    assert len({len(share) for share in shares}) == 1
    whole = [set(labels.tolist()) for _, labels in batches(data, size)]
    for step, parts in enumerate(zip(*(list(share) for share in shares), strict=True)):
        sets = [set(labels.tolist()) for _, labels in parts]
        assert len({len(part) for part in sets}) == 1
        assert all(sets)
        assert len(set.union(*sets)) == sum(map(len, sets))
        assert set.union(*sets) <= whole[step]


@pytest.mark.parametrize(("count", "size", "limit"), [(32, 2, None), (2, 8, None), (32, 8, 2)])
def test_more_processes_than_a_batch_has_images_are_refused(count: int, size: int, limit: int | None) -> None:
    with pytest.raises(ConfigError, match="3 processes share a batch of 2 items"):
        Order(count, size, seed=1, epoch=0, rank=0, processes=3, limit=limit)


def test_processes_augment_differently() -> None:
    data = image_set(16, side_px=8)
    data.codes.copy_(torch.arange(8).view(1, 1, 1, 8).expand_as(data.codes))
    columns = [
        [codes[:, 0, 0].tolist() for codes, _ in batches(data, 16, mirror=True, rank=rank, processes=2)]
        for rank in (0, 1)
    ]
    assert columns[0] != columns[1]


def test_a_picture_is_shifted_with_code_0_and_mirrored_as_a_whole() -> None:
    picture = torch.arange(1, 49).view(3, 4, 4).to(torch.int8)
    data = ImageSet(picture.expand(200, 3, 4, 4).contiguous(), torch.zeros(200, dtype=torch.long))
    padded = torch.nn.functional.pad(picture, (2, 2, 2, 2))
    possible = {
        tuple(view.flatten().tolist())
        for y in range(5)
        for x in range(5)
        for view in (padded[:, y : y + 4, x : x + 4], padded[:, y : y + 4, x : x + 4].flip(2))
    }
    seen = {
        tuple(codes.flatten().tolist()) for batch, _ in batches(data, 200, shift_px=2, mirror=True) for codes in batch
    }
    assert seen <= possible
    assert len(seen) > 40


def test_without_augmentation_pictures_are_left_alone() -> None:
    data = image_set(8)
    for codes, labels in batches(data, 8):
        assert torch.equal(codes, data.codes[labels])


def test_a_limited_epoch_shows_that_many_images_and_others_each_time() -> None:
    data = image_set(64)
    first, second = (labels_of(batches(data, 8, epoch=epoch, limit=20)) for epoch in (0, 1))
    assert len(set(first)) == len(first) == 16
    assert set(first) != set(second)
    assert labels_of(batches(data, 8, limit=100)) == labels_of(batches(data, 8))
    assert len(batches(data, 8, limit=5)) == 1
