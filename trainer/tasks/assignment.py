"""Which cells answer for which box, and the loss that follows: task-aligned detection without anchors.

Feng et al. 2021, "TOOD: Task-aligned One-stage Object Detection", section 3.2, with the binary cross entropy to soft
targets that YOLOv8 made customary.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.data.boxes import SIDES, Boxes


def cell_centres(height: int, width: int, strides: Tensor) -> Tensor:
    """Return the centres of all cells, float32 (H*W, 2) as x, y in input pixels, row by row, where ``strides`` lies."""
    device = strides.device
    y, x = torch.meshgrid(
        torch.arange(height, device=device) + 0.5, torch.arange(width, device=device) + 0.5, indexing="ij"
    )
    return torch.stack([x, y], 2).view(-1, 2) * strides


@dataclass(frozen=True)
class Predictions:
    """An output cell by cell, K of them: class ``logits`` (N, K, C), ``distances`` (N, K, 4), ``xyxy`` (N, K, 4).

    Distances and boxes are in input pixels, as are ``strides``, float32 (2,): between cells along x and y.
    """

    logits: Tensor
    distances: Tensor
    xyxy: Tensor
    centres: Tensor
    strides: Tensor


def predictions(output: Tensor, input_height_px: int, input_width_px: int) -> Predictions:
    """Return what an output, float32 (N, C + 4, H', W'), says.

    The last four channels are the distances of a box's left, top, right and bottom side from the cell's centre:
    ``softplus(value) * stride``. The stride is that of the axis, as in :func:`bitgear.tasks.detect.decode`.
    """
    channels, height, width = output.shape[1:]
    strides = torch.tensor([input_width_px / width, input_height_px / height], device=output.device)
    cells = output.flatten(2).transpose(1, 2)
    distances = F.softplus(cells[..., channels - SIDES :]) * strides.repeat(2)
    centres = cell_centres(height, width, strides)
    xyxy = torch.cat([centres - distances[..., :2], centres + distances[..., 2:]], 2)
    return Predictions(cells[..., : channels - SIDES], distances, xyxy, centres, strides)


def pairwise_iou(boxes: Tensor, others: Tensor) -> Tensor:
    """Return the overlap, 0..1, (N, M, K), of boxes (N, M, 4) with others (N, K, 4)."""
    low = torch.maximum(boxes[:, :, None, :2], others[:, None, :, :2])
    high = torch.minimum(boxes[:, :, None, 2:], others[:, None, :, 2:])
    inside = (high - low).clamp_min(0).prod(3)
    union = _area(boxes)[:, :, None] + _area(others)[:, None] - inside
    return inside / union.clamp_min(1e-9)


def giou(boxes: Tensor, others: Tensor) -> Tensor:
    """Return the generalised overlap, -1..1, (...), of boxes (..., 4) each with its other (Rezatofighi et al. 2019)."""
    inside = (
        (torch.minimum(boxes[..., 2:], others[..., 2:]) - torch.maximum(boxes[..., :2], others[..., :2]))
        .clamp_min(0)
        .prod(-1)
    )
    union = _area(boxes) + _area(others) - inside
    hull = (torch.maximum(boxes[..., 2:], others[..., 2:]) - torch.minimum(boxes[..., :2], others[..., :2])).prod(-1)
    return inside / union.clamp_min(1e-9) - (hull - union) / hull.clamp_min(1e-9)


def _area(xyxy: Tensor) -> Tensor:
    return (xyxy[..., 2:] - xyxy[..., :2]).clamp_min(0).prod(-1)


@dataclass(frozen=True)
class Assignment:
    """``scores``: targets in 0..1, (N, K, C); ``xyxy``: each cell's box, (N, K, 4); ``positive``: bool (N, K)."""

    scores: Tensor
    xyxy: Tensor
    positive: Tensor


@torch.no_grad()
def assign(found: Predictions, truth: Boxes, *, cells: int, alpha: float, beta: float) -> Assignment:
    """Return the targets of every cell.

    A box's candidates are the cells whose centre it holds, and always the cell nearest to its own centre. It takes the
    ``cells`` best by ``score ** alpha * iou ** beta``; a cell that several boxes take goes to the one it overlaps most.
    A cell's target for its box's class is that measure, scaled so that the box's best cell has the box's best overlap.
    """
    count, number, classes = found.logits.shape
    boxes = truth.xyxy
    class_ids = truth.class_ids[:, :, None].expand(-1, -1, number)
    scores = found.logits.sigmoid().transpose(1, 2).gather(1, class_ids)  # (N, M, K)
    iou = pairwise_iou(boxes, found.xyxy)
    reach = torch.minimum(found.centres - boxes[:, :, None, :2], boxes[:, :, None, 2:] - found.centres).amin(3)
    middle = (boxes[..., :2] + boxes[..., 2:]) / 2
    nearest = (found.centres - middle[:, :, None]).square().sum(3).argmin(2, keepdim=True)
    candidate = (reach > 0).scatter(2, nearest, True) & truth.real[:, :, None]
    aligned = scores.pow(alpha) * iou.pow(beta) * candidate
    best = aligned.masked_fill(~candidate, -1).topk(min(cells, number), 2).indices
    taken = torch.zeros_like(candidate).scatter(2, best, True) & candidate
    owner = iou.masked_fill(~taken, -1).argmax(1)  # (N, K)
    positive = taken.any(1)
    taken = taken & (torch.arange(boxes.shape[1], device=boxes.device)[None, :, None] == owner[:, None])
    aligned, overlap = aligned * taken, iou * taken
    scaled = aligned * (overlap.amax(2, keepdim=True) / aligned.amax(2, keepdim=True).clamp_min(1e-9))
    target = scaled.amax(1)
    own_class = truth.class_ids.gather(1, owner)
    wanted = torch.zeros(count, number, classes, device=boxes.device)
    wanted.scatter_(2, own_class[..., None], (target * positive)[..., None])
    return Assignment(wanted, boxes.gather(1, owner[..., None].expand(-1, -1, SIDES)), positive)


def detection_loss(found: Predictions, wanted: Assignment, box_weight: float) -> Tensor:
    """Return the cross entropy of all scores and ``box_weight`` times 1 - GIoU of the boxes, weighted by their targets.

    Both are divided by the sum of all targets.
    """
    weights = wanted.scores.sum(2)
    total = weights.sum().clamp_min(1.0)
    scores = F.binary_cross_entropy_with_logits(found.logits, wanted.scores, reduction="sum")
    boxes = ((1 - giou(found.xyxy, wanted.xyxy)) * weights * wanted.positive).sum()
    return (scores + box_weight * boxes) / total


def imitation_loss(found: Predictions, teacher: Predictions, box_weight: float) -> Tensor:
    """Return how far predictions are from a teacher's: cross entropy of scores, L1 of distances in cells.

    Distances count by the teacher's best score; both are divided by the sum of those.
    """
    wanted = teacher.logits.sigmoid()
    weights = wanted.amax(2)
    total = weights.sum().clamp_min(1.0)
    entropy = F.binary_cross_entropy_with_logits(teacher.logits, wanted, reduction="sum")
    scores = F.binary_cross_entropy_with_logits(found.logits, wanted, reduction="sum") - entropy
    apart = ((found.distances - teacher.distances).abs() / found.strides.repeat(2)).mean(2)
    return (scores + box_weight * (apart * weights).sum()) / total
