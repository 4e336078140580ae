"""eval and predict of a tiny Mask R-CNN on drawn shapes."""

import csv
import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from lbtrain import cli
from lbtrain.data import open_instances, registry
from tests.tiny_detection import run_tiny, tiny

IMAGES = 4


@pytest.fixture
def trained(tmp_path, monkeypatch):
    path = tmp_path / "run"
    summary = run_tiny({"duration": "2it"}, str(path), IMAGES)
    few = dataclasses.replace(registry._FACTS["shapes"], eval_examples=IMAGES)
    monkeypatch.setitem(registry._FACTS, "shapes", few)
    return path, summary


def test_eval_and_predict_of_a_detector(trained, tmp_path, capsys):
    path, summary = trained
    assert cli.main(["eval", str(path)]) == 0
    folder = path / "evaluation/val"
    metrics = json.loads((folder / "metrics.json").read_text())
    for kind in ("mask", "box"):
        for name in ("ap", "ap50", "ap75", "ar1", "ar10", "ar100"):
            assert 0 <= metrics[f"{kind}_{name}"] <= 100
    assert metrics["mask_ap"] == pytest.approx(summary["mask_ap"])
    assert (folder / "detections.png").is_file()
    classes = list(csv.DictReader((folder / "classes.csv").open()))
    assert [row["class"] for row in classes] == list(open_instances(tiny().data, train=False).class_names)
    for kind in ("mask_ap", "box_ap"):
        scored = [float(row[kind]) for row in classes if int(row["objects"])]
        assert metrics[kind] == pytest.approx(sum(scored) / len(scored))
    shown = capsys.readouterr().out
    assert all(row["class"] in shown for row in classes) and "box AP %" in shown

    image = open_instances(tiny().data, train=False)[0].pixels
    Image.fromarray(np.asarray(image)).save(tmp_path / "image.png")
    words = [str(path), str(tmp_path / "image.png"), "--min-score", "0", "--out", str(tmp_path / "p.csv")]
    assert cli.main(["predict", *words, "--pictures", str(tmp_path / "drawn")]) == 0
    rows = list(csv.DictReader((tmp_path / "p.csv").open()))
    assert rows and all(float(row["left"]) <= float(row["right"]) <= image.shape[1] for row in rows)
    assert len(list((tmp_path / "drawn").glob("*.png"))) == 1
    assert cli.main(["export", str(path)]) == 0
    assert (path / "export/model.safetensors").is_file()
