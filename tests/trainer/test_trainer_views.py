"""Random views: pictures, maps and boxes move together, colours change within bounds, and a seed decides everything."""

import numpy as np
import pytest
import torch

from bitgear.inputs import InputRecord
from trainer.config import ViewsConfig
from trainer.data import Boxes, BoxSet, BoxViews, MapSet, MapViews, Order
from trainer.data.boxes import clip
from trainer.data.views import Views, encode, random_views, recolour, show, show_map

CPU = torch.device("cpu")
PLAIN = ViewsConfig(scale=(1.0, 1.0), mirror=False, brightness=0.0, contrast=0.0, saturation=0.0)
TABLE = torch.tensor(InputRecord.centred(8, 128).table())


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures(count: int = 2, height: int = 6, width: int = 8) -> torch.Tensor:
    return torch.randint(0, 256, (count, 3, height, width), generator=generator(7), dtype=torch.uint8)


def order(count: int, size: int, **options: int) -> Order:
    return Order(count, size, **({"seed": 1, "epoch": 0, "rank": 0, "processes": 1} | options))


def test_a_plain_view_of_the_same_size_is_the_picture() -> None:
    pixels = pictures()
    views = random_views(2, (6, 8), (6, 8), PLAIN, generator(), CPU)
    shown = show(pixels, views, 128, PLAIN, generator())
    torch.testing.assert_close(shown, pixels.float(), rtol=0, atol=1e-2)
    codes = encode(shown, TABLE)
    assert codes.dtype == torch.int8
    assert torch.equal(codes.int() + 128, pixels.int())
    assert codes.is_contiguous(memory_format=torch.channels_last)


def test_a_mirrored_and_turned_view_is_the_mirrored_and_turned_picture() -> None:
    pixels = pictures(1, 6, 6)
    for matrix, expected in (
        ([[-1.0, 0.0], [0.0, 1.0]], pixels.flip(3)),
        ([[1.0, 0.0], [0.0, -1.0]], pixels.flip(2)),
        ([[0.0, 1.0], [1.0, 0.0]], pixels.transpose(2, 3)),
    ):
        views = Views(torch.tensor([matrix]), torch.tensor([[3.0, 3.0]]), 6, 6)
        shown = show(pixels, views, 128, PLAIN, generator())
        torch.testing.assert_close(shown, expected.float(), rtol=0, atol=1e-2)


def test_a_turn_mirrors_nothing() -> None:
    turned = random_views(200, (6, 6), (6, 6), PLAIN.model_copy(update={"turn": True}), generator(), CPU).matrix
    assert (torch.linalg.det(turned) > 0).all()
    kinds = {tuple(matrix.flatten().tolist()) for matrix in turned}
    assert kinds == {(1, 0, 0, 1), (0, 1, -1, 0), (0, -1, 1, 0)}
    mirrored = PLAIN.model_copy(update={"turn": True, "mirror": True})
    assert len(random_views(200, (6, 6), (6, 6), mirrored, generator(), CPU).matrix.unique(dim=0)) == 6


def test_outside_a_picture_is_background_whatever_the_colours() -> None:
    views = Views(torch.eye(2)[None] * 2, torch.tensor([[4.0, 4.0]]), 8, 8)  # half the size, in the middle
    bright = ViewsConfig(brightness=0.9, contrast=0.9, saturation=1.0)
    pixels = torch.full((1, 3, 8, 8), 250, dtype=torch.uint8)
    shown = show(pixels, views, 128, bright, generator(3))
    outside = torch.ones(8, 8, dtype=torch.bool)
    outside[2:6, 2:6] = False
    assert (shown[0][:, outside] == 128).all()
    assert (shown[0][:, ~outside] != 128).all()
    maps = torch.full((1, 8, 8), 5, dtype=torch.uint8)
    seen = show_map(maps, views, 255)[0]
    assert (seen[outside] == 255).all()
    assert (seen[~outside] == 5).all()


def test_maps_keep_their_class_ids_and_follow_their_pictures() -> None:
    maps = torch.randint(0, 12, (4, 20, 30), generator=generator(5), dtype=torch.uint8)
    maps[maps == 11] = 255
    pixels = maps[:, None].expand(-1, 3, -1, -1).contiguous()
    settings = PLAIN.model_copy(update={"mirror": True, "mirror_vertical": True})
    views = random_views(4, (20, 30), (12, 16), settings, generator(2), CPU)
    seen = show_map(maps, views, 255)
    assert seen.dtype == torch.int64
    assert set(seen.unique().tolist()) <= set(maps.unique().tolist())
    whole = Views(views.matrix, views.centre.floor(), 16, 12)  # whole pixels: bilinear is exact
    shown = show(pixels, whole, 255, PLAIN, generator())
    torch.testing.assert_close(shown[:, 0], show_map(maps, whole, 255).float(), rtol=0, atol=1e-2)


@pytest.mark.parametrize("seed", range(4))
def test_boxes_follow_their_pictures(seed: int) -> None:
    pixels = torch.zeros(6, 3, 40, 60, dtype=torch.uint8)
    pixels[:, :, 10:22, 16:40] = 255
    boxes = torch.tensor([16.0, 10.0, 40.0, 22.0]).expand(6, 1, 4)
    settings = PLAIN.model_copy(update={"scale": (0.6, 1.5), "mirror": True, "mirror_vertical": True, "turn": True})
    views = random_views(6, (40, 60), (40, 60), settings, generator(seed), CPU)
    shown = show(pixels, views, 0, PLAIN, generator())
    seen = clip(
        Boxes(views.boxes(boxes), torch.zeros(6, 1, dtype=torch.long), torch.ones(6, 1, dtype=torch.bool)), 40, 60
    )
    for picture, box, real in zip(shown, seen.xyxy, seen.real, strict=True):
        rows, columns = torch.nonzero(picture[0] > 127, as_tuple=True)
        if real.item():
            found = torch.tensor([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]).float()
            torch.testing.assert_close(found, box[0], rtol=0, atol=1.0)


def test_a_larger_picture_fills_the_view_and_a_smaller_one_is_shown_whole() -> None:
    large = random_views(200, (60, 80), (30, 40), PLAIN, generator(1), CPU).grid(60, 80)
    assert large.abs().max() <= 1
    small = random_views(200, (30, 40), (60, 80), PLAIN, generator(1), CPU)
    corners = small.boxes(torch.tensor([0.0, 0.0, 40.0, 30.0]).expand(200, 1, 4))[:, 0]
    assert corners.min() >= 0
    assert (corners[:, 2] <= 80).all()
    assert (corners[:, 3] <= 60).all()
    assert corners[:, 0].max() > 30  # anywhere
    assert corners[:, 0].min() < 10


def test_boxes_with_too_little_left_are_dropped() -> None:
    rows = torch.tensor(
        [[[-8.0, 0.0, 2.0, 10.0], [-5.0, 0.0, 5.0, 10.0], [3.0, 3.0, 4.0, 4.0], [90.0, 90.0, 99.0, 99.0]]]
    )
    ids, real = torch.zeros(1, 4, dtype=torch.long), torch.ones(1, 4, dtype=torch.bool)
    seen = clip(Boxes(rows, ids, real), 20, 20)
    assert seen.real[0].tolist() == [False, True, False, False]
    assert seen.xyxy[0, 1].tolist() == [0, 0, 5, 10]


def test_colours_stay_pixels_and_keep_a_grey_picture_grey() -> None:
    settings = ViewsConfig(brightness=0.5, contrast=0.5, saturation=1.0)
    pixels = pictures(8).float()
    shown = recolour(pixels, settings, generator())
    assert shown.min() >= 0
    assert shown.max() <= 255
    assert not torch.equal(shown, pixels)
    grey = recolour(pixels[:, :1].expand(-1, 3, -1, -1), settings, generator())
    torch.testing.assert_close(grey[:, 0], grey[:, 2], rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(recolour(pixels, PLAIN, generator()), pixels, rtol=1e-4, atol=1e-3)


def map_views() -> MapViews:
    maps = torch.randint(0, 3, (6, 6, 8), generator=generator(3), dtype=torch.uint8)
    return MapViews(MapSet(pictures(6), maps), 6, 8, ViewsConfig(), TABLE, 128)


def box_views() -> BoxViews:
    xyxy = torch.tensor([1.0, 1.0, 6.0, 5.0]).expand(6, 2, 4).contiguous()
    boxes = Boxes(xyxy, torch.arange(12).view(6, 2), torch.tensor([[True, False]]).expand(6, 2).contiguous())
    return BoxViews(BoxSet(pictures(6), boxes), ViewsConfig(turn=True), TABLE, 128)


def test_the_same_seed_and_epoch_give_the_same_batches() -> None:
    for _ in range(2):
        first, again, other = (list(map_views().batches(order(6, 2, epoch=e))) for e in (4, 4, 5))
        assert len(first) == 3
        assert all(torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) for a, b in zip(first, again, strict=True))
        assert not all(torch.equal(a[0], b[0]) for a, b in zip(first, other, strict=True))
    first, again = (list(box_views().batches(order(6, 3))) for _ in range(2))
    for (codes, boxes), (same_codes, same_boxes) in zip(first, again, strict=True):
        assert torch.equal(codes, same_codes)
        assert torch.equal(boxes.xyxy, same_boxes.xyxy)
        assert not boxes.real[:, 1].any()
    ids = [int(i) for _, boxes in first for i in boxes.class_ids[:, 0]]
    assert sorted(ids) == [0, 2, 4, 6, 8, 10]


def test_processes_share_an_epoch() -> None:
    shares = [order(20, 8, rank=rank, processes=2).indices for rank in (0, 1)]
    whole = order(20, 8).indices
    assert torch.equal(torch.cat(shares, 1), whole)
    assert np.unique(whole).size == 16
