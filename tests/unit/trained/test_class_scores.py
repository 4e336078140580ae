"""The numbers of an evaluation against ones that are counted by hand and by scikit-learn."""

import numpy as np
import pytest
import torch
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from lbtrain import Recipe
from lbtrain.errors import RecipeError
from lbtrain.plan.plan import make_plan
from lbtrain.tasks import create_task
from lbtrain.tasks.class_scores import BINS, ClassScores
from lbtrain.tasks.confusion import drawn
from tests.photos import write_folder
from tests.unit.keys.rooms import process_group_of_one

NAMES = [f"class {number}" for number in range(7)]


def summed(scores, labels, classes: int = 7) -> ClassScores:
    sums = ClassScores(classes, torch.device("cpu"))
    for some in torch.arange(len(labels)).split(5):
        sums.add(scores[some], labels[some])
    return sums


def drawn_scores():
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(7, (203,), generator=generator)
    scores = torch.randn(203, 7, generator=generator)
    scores[torch.arange(203), labels] += 1.5
    return scores, labels


def test_confusion_recall_and_precision_are_those_of_scikit_learn():
    scores, labels = drawn_scores()
    sums = summed(scores, labels)
    predicted = scores.argmax(1)
    assert np.array_equal(sums.confusion.numpy(), confusion_matrix(labels, predicted))
    precision, recall, _, support = precision_recall_fscore_support(labels, predicted)
    rows = sums.classes(NAMES)
    assert [row["examples"] for row in rows] == support.tolist()
    np.testing.assert_allclose([row["recall"] for row in rows], 100 * recall)
    np.testing.assert_allclose([row["precision"] for row in rows], 100 * precision)


def test_errors_and_loss():
    scores, labels = drawn_scores()
    metrics = summed(scores, labels).metrics()
    top = scores.topk(5).indices
    assert metrics["examples"] == 203
    np.testing.assert_allclose(metrics["top1_error"], 100 * (top[:, 0] != labels).float().mean(), rtol=1e-6)
    np.testing.assert_allclose(
        metrics["top5_error"], 100 * (~(top == labels[:, None]).any(1)).float().mean(), rtol=1e-6
    )
    np.testing.assert_allclose(metrics["loss"], torch.nn.functional.cross_entropy(scores, labels), rtol=1e-6)


def test_five_classes_have_no_top5_error():
    assert "top5_error" not in summed(torch.eye(5), torch.arange(5), classes=5).metrics()


def test_evaluations_while_training_have_none_either(tmp_path):
    """Of two classes of photos; a target or a best checkpoint by it is rejected in the plan."""
    photos = Recipe().vary(
        batch_size=8,
        bn_batch_size=8,
        model=dict(name="resnet18"),
        data=dict(name="imagefolder", root=str(write_folder(tmp_path)), image_size=32),
    )
    for changes in (dict(stop_at=["top5_accuracy>=90"]), dict(checkpoint=dict(best="top5_error"))):
        with pytest.raises(
            RecipeError, match=r"top5_\w+ needs more than five classes, and the data set has 2"
        ):
            make_plan(photos.vary(**changes), 1)
    task = create_task(photos, torch.device("cpu"))
    with process_group_of_one():
        found = task.evaluate(
            lambda images: torch.tensor([1.0, 0.0]).expand(len(images), 2),
            micro_batch_size=4,
            rank=0,
            world_size=1,
        )
    assert set(found.metrics) == {"top1_error", "loss"} and found.metrics["top1_error"] == 60  # 3 bees of 5


def test_calibration_error_by_its_equation():
    """Guo et al. 2017, equation 3, with the sums written out."""
    scores, labels = drawn_scores()
    confidence, predicted = scores.softmax(1).max(1)
    expected = 0.0
    for number in range(BINS):
        inside = (confidence >= number / BINS) & (confidence < (number + 1) / BINS)
        if inside.any():
            accuracy = (predicted == labels)[inside].double().mean()
            expected += inside.sum() / 203 * abs(accuracy - confidence[inside].double().mean())
    np.testing.assert_allclose(
        summed(scores, labels).metrics()["calibration_error"], 100 * expected, rtol=1e-6
    )


def test_a_class_without_examples_or_predictions_has_no_rates():
    row = summed(torch.eye(7)[:2], torch.tensor([0, 0])).classes(NAMES)
    assert (row[0]["recall"], row[1]["recall"], row[2]["precision"]) == (50.0, None, None)
    assert row[0]["most_often_taken_for"] == "class 1" and not row[1]["most_often_taken_for"]


def test_the_picture_holds_every_class_at_any_number():
    for count in (2, 10, 100, 1000):
        picture = drawn(np.eye(count, dtype=np.int64), [f"n{number}" for number in range(count)])
        assert picture.dtype == np.uint8 and picture.shape[2] == 3
        assert min(picture.shape[:2]) >= count and (picture != 255).any()


def test_the_confusion_table_has_a_column_for_every_class_whatever_its_name(tmp_path):
    names = {"ant": "false", "bee": "true"}
    folder = write_folder(tmp_path)
    for old, new in names.items():
        for path in sorted(folder.rglob(old)):
            path.rename(path.with_name(new))
    photos = Recipe().vary(
        batch_size=8,
        bn_batch_size=8,
        model=dict(name="resnet18"),
        data=dict(name="imagefolder", root=str(folder), image_size=32),
    )
    with process_group_of_one():
        report = create_task(photos, torch.device("cpu")).report(
            lambda images: torch.tensor([1.0, 0.0]).expand(len(images), 2),
            train=False, micro_batch_size=4, rank=0, world_size=1,
        )  # fmt: skip
    false, true = report.tables["confusion"]
    assert [false.pop("true class"), true.pop("true class")] == ["false", "true"]
    assert false.keys() == true.keys() == {"false", "true"}
    assert sum(false.values()) + sum(true.values()) == 5
