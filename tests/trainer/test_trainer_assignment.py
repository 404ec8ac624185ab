"""Task-aligned assignment and its losses against values worked out by hand."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from bitgear.inputs import InputRecord
from bitgear.tasks.detect import decode
from trainer.data.boxes import Boxes
from trainer.tasks.assignment import (
    Assignment,
    Predictions,
    assign,
    cell_centres,
    detection_loss,
    giou,
    imitation_loss,
    pairwise_iou,
    predictions,
)


def boxes(*rows: tuple[float, float, float, float]) -> torch.Tensor:
    return torch.tensor([rows], dtype=torch.float32)


def truth(rows: torch.Tensor, class_ids: list[int], real: list[bool] | None = None) -> Boxes:
    return Boxes(rows, torch.tensor([class_ids]), torch.tensor([real or [True] * len(class_ids)]))


STRIDES = torch.tensor([8.0, 8.0])


def found(logits: list[list[float]], xyxy: torch.Tensor, height: int, width: int) -> Predictions:
    centres = cell_centres(height, width, STRIDES)
    distances = torch.cat([centres - xyxy[..., :2], xyxy[..., 2:] - centres], 2)
    return Predictions(torch.tensor([logits]), distances, xyxy, centres, STRIDES)


def test_cells_lie_row_by_row_at_their_centres() -> None:
    assert cell_centres(2, 3, torch.tensor([8.0, 8.0])).tolist() == [
        [4, 4],
        [12, 4],
        [20, 4],
        [4, 12],
        [12, 12],
        [20, 12],
    ]


def test_an_output_says_scores_and_distances_in_strides() -> None:
    output = torch.zeros(1, 2 + 4, 2, 3)
    output[0, 1, 1, 2] = 5.0
    output[0, 2:, 1, 2] = torch.tensor([math.log(math.expm1(v)) for v in (1.0, 0.5, 2.0, 0.25)])
    said = predictions(output, input_height_px=16, input_width_px=24)
    assert said.strides.tolist() == [8, 8]
    assert said.logits.shape == (1, 6, 2)
    assert said.logits[0, 5].tolist() == [0, 5]
    torch.testing.assert_close(said.xyxy[0, 5], torch.tensor([20 - 8.0, 12 - 4.0, 20 + 16.0, 12 + 2.0]))
    torch.testing.assert_close(said.distances[0, 0], torch.full((4,), 8 * math.log(2)))


@pytest.mark.parametrize(("width", "height", "stride"), [(416, 320, 8), (500, 375, 8), (480, 360, 16)])
def test_boxes_in_training_are_those_that_are_served(width: int, height: int, stride: int) -> None:
    shape = (6, math.ceil(height / stride), math.ceil(width / stride))
    output = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    served, _ = decode(output, replace(InputRecord.centred(width, 128), height_px=height))
    trained = predictions(torch.from_numpy(output)[None], height, width)
    np.testing.assert_allclose(trained.xyxy[0].numpy(), served, rtol=0, atol=1e-3)


def test_overlaps_are_those_of_plain_geometry() -> None:
    one, others = boxes((0, 0, 10, 10)), boxes((5, 0, 15, 10), (10, 0, 20, 10), (20, 20, 30, 30), (0, 0, 10, 10))
    assert pairwise_iou(one, others)[0, 0].tolist() == pytest.approx([50 / 150, 0, 0, 1])
    hull = [150, 200, 900, 100]
    union = [150, 200, 200, 100]
    expected = [i - (h - u) / h for i, h, u in zip([1 / 3, 0, 0, 1], hull, union, strict=True)]
    assert giou(one.expand_as(others), others)[0].tolist() == pytest.approx(expected)
    degenerate = boxes((3, 3, 3, 3))
    assert torch.isfinite(giou(degenerate, degenerate)).all()


def test_a_box_takes_the_cells_that_score_and_overlap_best() -> None:
    real = boxes((0, 0, 24, 8))  # holds the centres of all three cells of the first row
    said = boxes((0, 0, 24, 8), (0, 0, 12, 8), (0, 0, 24, 8), (0, 0, 24, 8), (0, 0, 24, 8), (0, 0, 24, 8))
    scores = [[0.0, -2.0], [0.0, 3.0], [0.0, 1.0], [9.0, 9.0], [9.0, 9.0], [9.0, 9.0]]
    predicted = found(scores, said, 2, 3)
    got = assign(predicted, truth(real, [1]), cells=2, alpha=1.0, beta=6.0)
    sigmoid = torch.sigmoid(torch.tensor([-2.0, 3.0, 1.0]))
    aligned = sigmoid * torch.tensor([1.0, 0.5, 1.0]) ** 6
    assert got.positive[0].tolist() == [True, False, True, False, False, False]
    expected = torch.zeros(6, 2)
    expected[0, 1], expected[2, 1] = aligned[0] / aligned[2], 1.0  # the best cell takes the best overlap, which is 1
    torch.testing.assert_close(got.scores[0], expected)
    assert got.xyxy[0, 0].tolist() == [0, 0, 24, 8]


def test_a_cell_wanted_twice_goes_to_the_box_it_overlaps_most() -> None:
    real = boxes((0, 0, 8, 8), (0, 0, 16, 8))
    said = boxes((0, 0, 16, 8), (0, 0, 16, 8))
    got = assign(found([[0.0, 0.0], [0.0, 0.0]], said, 1, 2), truth(real, [0, 1]), cells=2, alpha=1.0, beta=6.0)
    assert got.positive[0].tolist() == [True, True]
    assert got.scores[0].tolist() == [[0, 1], [0, 1]]


def test_a_box_smaller_than_a_cell_takes_the_nearest() -> None:
    real = boxes((9, 9, 11, 11))  # between the centres at 4 and 12
    said = boxes(*[(8.0, 8.0, 12.0, 12.0)] * 4)
    got = assign(found([[0.0]] * 4, said, 2, 2), truth(real, [0]), cells=10, alpha=1.0, beta=6.0)
    assert got.positive[0].tolist() == [False, False, False, True]
    assert got.scores[0, 3, 0].item() == pytest.approx(4 / 16)


def test_padding_and_pictures_without_boxes_want_nothing() -> None:
    said = boxes(*[(0.0, 0.0, 16.0, 16.0)] * 4)
    predicted = found([[0.0]] * 4, said, 2, 2)
    got = assign(predicted, truth(boxes((0, 0, 16, 16)), [0], [False]), cells=10, alpha=1.0, beta=6.0)
    assert not got.positive.any()
    assert not got.scores.any()
    loss = detection_loss(predicted, got, 2.0)
    assert loss.item() == pytest.approx(4 * math.log(2))


def test_the_loss_is_cross_entropy_and_giou_over_the_sum_of_targets() -> None:
    predicted = found([[2.0], [-1.0]], boxes((0, 0, 8, 8), (8, 0, 16, 8)), 1, 2)
    wanted = Assignment(
        torch.tensor([[[0.8], [0.0]]]), boxes((0, 0, 8, 4), (0, 0, 1, 1)), torch.tensor([[True, False]])
    )
    entropy = -(0.8 * math.log(1 / (1 + math.exp(-2))) + 0.2 * math.log(1 - 1 / (1 + math.exp(-2))))
    entropy += -math.log(1 - 1 / (1 + math.exp(1)))
    box = (1 - 0.5) * 0.8
    assert detection_loss(predicted, wanted, 2.0).item() == pytest.approx((entropy + 2 * box) / 1.0, rel=1e-5)


def test_an_equal_network_imitates_perfectly_and_another_does_not() -> None:
    one = found([[2.0], [-1.0]], boxes((0, 0, 8, 8), (8, 0, 16, 8)), 1, 2)
    other = found([[2.0], [-1.0]], boxes((0, 0, 16, 8), (8, 0, 16, 8)), 1, 2)
    assert imitation_loss(one, one, 2.0).item() == pytest.approx(0, abs=1e-6)
    score = [1 / (1 + math.exp(-2)), 1 / (1 + math.exp(1))]
    expected = 2.0 * score[0] * (8 / 8 / 4) / sum(score)  # one of four sides, one stride apart
    assert imitation_loss(other, one, 2.0).item() == pytest.approx(expected, rel=1e-5)
    wider = replace(other, strides=torch.tensor([16.0, 8.0]))  # that side lies along x
    assert imitation_loss(wider, one, 2.0).item() == pytest.approx(expected / 2, rel=1e-5)
