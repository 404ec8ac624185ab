"""Classification around the network: probabilities, their order, and top-1."""

import numpy as np
import pytest

from bitgear.engines import create_engine
from bitgear.inputs import InputRecord
from bitgear.tasks.classify import predictions, preprocess, softmax, top1
from bitgear.tasks.datasets import LabelledImages, resize_crop
from bitgear.tasks.pictures import Picture
from tests.masters import tiny_master


@pytest.mark.parametrize("logits", [[0.0, 0.0], [1e30, -1e30], [-3e38, 3e38], [700.0, 710.0], [5.0]])
def test_probabilities_are_finite_and_sum_to_one(logits: list[float]) -> None:
    scores = softmax(np.asarray(logits, np.float32))
    assert np.isfinite(scores).all()
    assert scores.sum() == pytest.approx(1)
    assert (scores >= 0).all()


def test_probabilities_follow_the_formula_row_by_row() -> None:
    scores = softmax(np.log(np.asarray([[1, 2, 5], [4, 4, 2]], np.float32)))
    np.testing.assert_allclose(scores, [[0.125, 0.25, 0.625], [0.4, 0.4, 0.2]], rtol=1e-6)


def test_predictions_come_best_first_and_ties_by_class() -> None:
    best = predictions(np.asarray([1, 3, 3, 2, -9], np.float32), ["a", "b", "c", "d", "e"], 4)
    assert [(p.class_name, p.class_id) for p in best] == [("b", 1), ("c", 2), ("d", 3), ("a", 0)]
    assert best[0].confidence == best[1].confidence > best[2].confidence


@pytest.mark.parametrize(("top_k", "count"), [(1, 1), (2, 2), (3, 3), (99, 3)])
def test_there_are_no_more_predictions_than_classes(top_k: int, count: int) -> None:
    assert len(predictions(np.zeros(3, np.float32), ["a", "b", "c"], top_k)) == count


def test_preprocessing_gives_the_codes_of_the_resized_picture() -> None:
    record = InputRecord.centred(8, 128)
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3)).astype(np.uint8)
    codes = preprocess(Picture(pixels), record)
    assert codes.shape == (1, 3, 8, 8)
    assert codes.dtype == np.int8
    expected = resize_crop(pixels, 8).astype(np.int16) - 128
    np.testing.assert_array_equal(codes[0], expected.transpose(2, 0, 1))


@pytest.mark.parametrize("batch_size", [1, 3, 7, 100])
def test_top1_is_the_share_of_hits_whatever_the_batch(batch_size: int) -> None:
    master = tiny_master(1)
    images = np.random.default_rng(1).integers(0, 256, (7, 16, 16, 3)).astype(np.uint8)
    model = create_engine("reference").derive(master, 8)
    labels = model.run(master.input.encode(images)).argmax(1)
    labels[:2] = (labels[:2] + 1) % 10
    done: list[int] = []
    data = LabelledImages(images, labels, master.labels)
    assert top1(model, master.input, data, batch_size, done.append) == 5 / 7
    assert sum(done) == 7
