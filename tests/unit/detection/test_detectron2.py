"""Against the original: detectron2's own training step, its trainer over 20 steps, and its evaluator.

Run with an interpreter that has detectron2; elsewhere the file is skipped, once, and counted.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip(
    "detectron2", reason="detectron2 is not installed: the checks against the original were not made"
)
pytestmark = pytest.mark.detectron2

from lbtrain import Recipe  # noqa: E402
from lbtrain.data import dataset_info  # noqa: E402
from lbtrain.data.annotations import read_annotations  # noqa: E402
from lbtrain.data.coco import CocoSource  # noqa: E402
from lbtrain.data.coco_layouts import coco_files  # noqa: E402
from lbtrain.data.stream import Block  # noqa: E402
from lbtrain.errors import DataError, RecipeError  # noqa: E402
from lbtrain.plan.statistics import model_statistics  # noqa: E402
from lbtrain.tasks import build_model, create_task  # noqa: E402
from lbtrain.tasks.coco_score import as_detections, outlines_of, with_classes  # noqa: E402
from lbtrain.tasks.detectron2_configs import _LAZY_NORM_KEYS, _YAML_NORM_KEYS, config_of, mapper_of  # noqa: E402
from lbtrain.tasks.detectron2_models import _Mapped, seed_sampling  # noqa: E402
from tests.unit.detection.test_data import edited, shapes_as_coco  # noqa: E402

YAML = "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml"
LAZY = YAML.replace(".yaml", ".py")
# Group norm: random weights with frozen statistics diverge.
SMALL = {
    "MODEL.RESNETS.NORM": "GN",
    "MODEL.RESNETS.DEPTH": 18,
    "MODEL.RESNETS.RES2_OUT_CHANNELS": 64,
    "MODEL.FPN.OUT_CHANNELS": 16,
    "MODEL.ROI_BOX_HEAD.FC_DIM": 16,
    "MODEL.ROI_MASK_HEAD.CONV_DIM": 16,
    "MODEL.ROI_MASK_HEAD.NUM_CONV": 1,
    "MODEL.RPN.BATCH_SIZE_PER_IMAGE": 32,
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 16,
    "MODEL.RPN.PRE_NMS_TOPK_TRAIN": 50,
    "MODEL.RPN.POST_NMS_TOPK_TRAIN": 20,
    "MODEL.RPN.PRE_NMS_TOPK_TEST": 20,
    "MODEL.RPN.POST_NMS_TOPK_TEST": 10,
    "INPUT.MIN_SIZE_TRAIN": [64, 80],
    "INPUT.MAX_SIZE_TRAIN": 100,
    "INPUT.MIN_SIZE_TEST": 64,
    "INPUT.MASK_FORMAT": "bitmask",
    "SOLVER.BASE_LR": 0.005,
    "SOLVER.WEIGHT_DECAY": 0.1,
    "SOLVER.WARMUP_ITERS": 8,
    "SOLVER.STEPS": [12, 16],
    "SOLVER.MAX_ITER": 20,
}


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return shapes_as_coco(tmp_path_factory.mktemp("shapes"))


def small(root: Path, **changes) -> Recipe:
    return (
        Recipe()
        .vary(
            batch_size=2,
            loss_batch_size=2,
            duration="20it",
            model=dict(library="detectron2", name=YAML, batch_norm="frozen", args=SMALL),
            data=dict(name="coco", root=str(root)),
            optimizer=dict(momentum=0.9, weight_decay=0.1, no_decay=["norm"]),
            schedule=dict(
                base_lr=0.005,
                base_batch_size=2,
                warmup="8it",
                warmup_start_lr=0.005 / 1000,
                decay="step",
                milestones=["12it", "16it"],
            ),
            log_every="1it",
            evaluate_every="1dur",
            checkpoint=dict(every="1dur"),
        )
        .vary(**changes)
    )


def lazy(root: Path, **changes) -> Recipe:
    """The LazyConfig of the same network, a ResNet-50, with `small`'s settings at a fifth of its rate, where
    rounding does not grow.
    """
    edges = "dataloader.{}.mapper.augmentations.0.short_edge_length"
    arguments = {
        "model.backbone.bottom_up.stages.norm": "GN",
        "model.backbone.bottom_up.stem.norm": "GN",
        edges.format("train"): [64, 80],
        edges.format("test"): 64,
        "dataloader.train.mapper.instance_mask_format": "bitmask",
        "model.roi_heads.batch_size_per_image": 16,
        "model.proposal_generator.batch_size_per_image": 32,
        "model.proposal_generator.pre_nms_topk": [50, 20],
        "model.proposal_generator.post_nms_topk": [20, 10],
        "optimizer.lr": 0.001,
        "optimizer.weight_decay": 0.1,
        "lr_multiplier.scheduler.milestones": [12, 16, 20],
        "lr_multiplier.warmup_length": 8 / 20,
    }
    rate = dict(base_lr=0.001, warmup_start_lr=0.001 / 1000)
    return small(root, model=dict(name=LAZY, args=arguments), schedule=rate).vary(**changes)


def original(recipe: Recipe):
    """detectron2's model as it builds it, with the recipe's weights; of ours it has the seeds of its samplers
    alone.
    """
    from detectron2.config import CfgNode, instantiate
    from detectron2.modeling import build_model as build

    config = config_of(recipe, dataset_info(recipe.data).num_classes)
    model = build(config) if isinstance(config, CfgNode) else instantiate(config.model)
    model.load_state_dict(build_model(recipe, dataset_info(recipe.data)).state_dict())
    return model.train(), seed_sampling(model)


@pytest.mark.parametrize("kind", [small, lazy])
def test_losses_equal_those_of_detectron2s_own_step(root, kind):
    from detectron2.utils.events import EventStorage

    recipe = kind(root)
    theirs, seeds = original(recipe)
    ours = build_model(recipe, dataset_info(recipe.data)).train()
    task = create_task(recipe, torch.device("cpu"))
    batches = task.batches(start=0, micro_batch_size=2, rank=0, world_size=1)
    for _ in range(3):
        batch = next(batches)
        seeds.expect(batch.keys)
        with EventStorage():
            expected = theirs(batch.inputs)
        found = task.loss(ours, batch).parts
        assert found.keys() == expected.keys() and len(found) == 5
        for name, loss in expected.items():
            assert float(found[name]) == pytest.approx(float(loss), rel=1e-5), name


def of_the_yaml(config, model):
    """What detectron2's tools/train_net.py trains with."""
    from detectron2.solver import build_lr_scheduler, build_optimizer

    assert config.SOLVER.LR_SCHEDULER_NAME == "WarmupMultiStepLR"
    optimizer = build_optimizer(config, model)
    return optimizer, build_lr_scheduler(config, optimizer)


def of_the_class(config, model):
    """The scheduler that gave the setting its name."""
    from detectron2.solver import build_optimizer
    from detectron2.solver.lr_scheduler import WarmupMultiStepLR

    solver, optimizer = config.SOLVER, build_optimizer(config, model)
    warmup = dict(
        warmup_factor=solver.WARMUP_FACTOR,
        warmup_iters=solver.WARMUP_ITERS,
        warmup_method=solver.WARMUP_METHOD,
    )
    return optimizer, WarmupMultiStepLR(optimizer, list(solver.STEPS), solver.GAMMA, **warmup)


def of_the_lazy_config(config, model):
    """What detectron2's tools/lazyconfig_train_net.py trains with."""
    from detectron2.config import instantiate
    from detectron2.solver import LRMultiplier

    config.optimizer.params.model = model
    optimizer = instantiate(config.optimizer)
    return optimizer, LRMultiplier(optimizer, instantiate(config.lr_multiplier), max_iter=20)


def trained_by_detectron2(recipe: Recipe, parts) -> tuple[list[float], list[float], torch.nn.Module]:
    """Losses, learning rates and the model of 20 steps of its SimpleTrainer, on our batches."""
    from detectron2.engine import HookBase, SimpleTrainer, hooks

    model, seeds = original(recipe)
    optimizer, scheduler = parts(config_of(recipe, dataset_info(recipe.data).num_classes), model)
    assert type(optimizer) is torch.optim.SGD and optimizer.defaults["momentum"] == 0.9
    batches = create_task(recipe, torch.device("cpu")).batches(
        start=0, micro_batch_size=2, rank=0, world_size=1
    )

    def data():
        for batch in batches:
            seeds.expect(batch.keys)
            yield batch.inputs

    losses, rates = [], []

    class Seen(HookBase):
        def after_step(self):
            losses.append(
                sum(
                    self.trainer.storage.history(name).latest()
                    for name in self.trainer.storage.histories()
                    if "loss_" in name
                )
            )
            rates.append(optimizer.param_groups[0]["lr"])

    trainer = SimpleTrainer(model, data(), optimizer)
    trainer.register_hooks([Seen(), hooks.LRScheduler(optimizer, scheduler)])
    trainer.train(0, 20)
    return losses, rates, model


def trained_by_us(recipe: Recipe, run_dir: Path) -> tuple[list[float], list[float]]:
    from lbtrain.run import run

    run(recipe.vary(run_dir=str(run_dir)), "small", on_screen=False)
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return tuple([row[name] for row in rows if row["kind"] == "train"] for name in ("loss", "lr"))


def difference(ours: list[float], theirs: list[float]) -> float:
    assert len(ours) == len(theirs) == 20
    return max(abs(a - b) / b for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize(
    ("kind", "parts"), [(small, of_the_yaml), (small, of_the_class), (lazy, of_the_lazy_config)]
)
def test_20_steps_of_our_loop_equal_20_of_detectron2s_trainer(root, tmp_path, kind, parts):
    recipe = kind(root)
    losses, rates, model = trained_by_detectron2(recipe, parts)
    peak = recipe.schedule.base_lr
    assert rates[0] == pytest.approx(peak / 1000)
    assert rates[8:12] == pytest.approx([peak] * 4) and rates[16:] == pytest.approx([peak / 100] * 4)
    ours, our_rates = trained_by_us(recipe, tmp_path)
    assert our_rates == pytest.approx(rates, rel=1e-6)
    assert difference(ours, losses) < 1e-5
    weights = torch.load(max((tmp_path / "checkpoints").glob("*.pt")), weights_only=True)["state_dict"]
    assert json.loads((tmp_path / "summary.json").read_text())["mask_ap"] >= 0
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(
            weights[name], tensor, rtol=1e-4, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}"
        )


def test_20_steps_tell_every_setting_from_its_neighbour(root, tmp_path):
    """Else the equality above would say nothing of it."""
    expected, _ = trained_by_us(small(root), tmp_path / "as_published")
    others = {
        "momentum": dict(optimizer=dict(momentum=0.89)),
        "decay": dict(optimizer=dict(weight_decay=0.0)),
        "decay of norms": dict(optimizer=dict(no_decay=[])),
        "decay of biases": dict(optimizer=dict(no_decay=["norm", "bias"])),
        "warm-up": dict(schedule=dict(warmup="7it")),
        "warm-up's start": dict(schedule=dict(warmup_start_lr=0.005 / 900)),
        "first milestone": dict(schedule=dict(milestones=["11it", "16it"])),
        "second milestone": dict(schedule=dict(milestones=["12it", "17it"])),
        "seed of the samplers": dict(seed=1),
    }
    for name, changes in others.items():
        losses, _ = trained_by_us(small(root, **changes), tmp_path / name)
        assert difference(losses, expected) > 2e-5, name


def test_precision_equals_that_of_detectron2s_evaluator(root):
    from detectron2.data import DatasetCatalog, MetadataCatalog
    from detectron2.evaluation import COCOEvaluator
    from detectron2.structures import Boxes, Instances

    source = CocoSource(read_annotations(coco_files(root, "validation")), empty_images=True, scored=True)
    MetadataCatalog.get("shapes_as_coco").set(
        json_file=str(source.path),
        thing_classes=source.class_names,
        thing_dataset_id_to_contiguous_id={1: 0, 2: 1, 3: 2, 4: 3},
    )
    DatasetCatalog.register("shapes_as_coco", list)
    evaluator = COCOEvaluator("shapes_as_coco", tasks=("bbox", "segm"), use_fast_impl=False)
    evaluator.reset()
    random, found = np.random.default_rng(0), []
    for index in range(len(source)):
        sample = source[index]
        scores = torch.from_numpy(random.uniform(0, 1, len(sample.labels)).astype(np.float32))
        boxes = torch.from_numpy(sample.boxes + random.normal(0, 2, sample.boxes.shape).astype(np.float32))
        masks = torch.from_numpy(np.roll(sample.masks, int(random.integers(4)), 2).astype(bool))
        labels = torch.from_numpy(np.where(random.uniform(size=len(scores)) < 0.9, sample.labels, 1))
        output = Instances(
            sample.pixels.shape[:2],
            pred_boxes=Boxes(boxes),
            scores=scores,
            pred_classes=labels - 1,
            pred_masks=masks,
        )
        evaluator.process([{"image_id": sample.image_id}], [{"instances": output}])
        outlines = outlines_of({"masks": masks}, sample.pixels.shape[:2])
        found += as_detections(sample.image_id, labels.tolist(), boxes, scores, outlines)
    theirs, ours = evaluator.evaluate(), with_classes(source.ground_truth(), found)[0]
    names = {
        "AP": "ap",
        "AP50": "ap50",
        "AP75": "ap75",
        "APs": "ap_small",
        "APm": "ap_medium",
        "APl": "ap_large",
    }
    for kind, ours_kind in (("bbox", "box"), ("segm", "mask")):
        for name, our_name in names.items():
            if np.isfinite(theirs[kind][name]):
                assert ours[f"{ours_kind}_{our_name}"] == pytest.approx(theirs[kind][name], abs=1e-9), (
                    kind,
                    name,
                )
    assert 5 < ours["mask_ap"] < 95 and 5 < ours["box_ap"] < 95


def test_the_mappers_random_numbers_belong_to_the_image(root):
    recipe = small(root)
    source = CocoSource(read_annotations(coco_files(root, "train")), empty_images=True)
    mapped = _Mapped(source, mapper_of(config_of(recipe, 4), True, recipe), 0)
    together = mapped[Block(np.zeros(4, np.int64), np.arange(4))]
    alone = mapped[Block(np.zeros(1, np.int64), np.array([2]))]
    assert (
        torch.equal(together.inputs[2]["image"], alone.inputs[0]["image"])
        and together.keys[2] == alone.keys[0]
    )
    other = [mapped[Block(np.full(1, epoch), np.array([2]))].inputs[0]["image"] for epoch in range(6)]
    assert len({tuple(image.shape) for image in other}) > 1


@pytest.mark.parametrize("kind", [small, lazy])
def test_loader_processes_map_as_the_rank_does(root, kind):
    found = []
    for workers in (0, 1):
        task = create_task(kind(root, data=dict(workers=workers)), torch.device("cpu"))
        found.append(next(task.batches(start=0, micro_batch_size=2, rank=0, world_size=1)))
    for ours, theirs in zip(found[0].inputs, found[1].inputs, strict=True):
        assert torch.equal(ours["image"], theirs["image"]) and ours["image_id"] == theirs["image_id"]
    assert found[0].keys == found[1].keys


def gradients_of(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {
        name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None
    }


def test_accumulation_equals_no_accumulation(root):
    """Images of one size, for padding is detectron2's."""
    recipe = small(root, batch_size=4, model=dict(args=SMALL | {"INPUT.MIN_SIZE_TRAIN": [64]}))
    task = create_task(recipe, torch.device("cpu"))
    batch = next(task.batches(start=0, micro_batch_size=4, rank=0, world_size=1))
    losses, gradients = [], []
    for micro_batches in ([batch], [batch[:2], batch[2:]]):
        model = build_model(recipe, dataset_info(recipe.data)).train()
        parts = [task.loss(model, part).parts for part in micro_batches]
        sum(sum(part.values()) / len(parts) for part in parts).backward()
        losses.append({name: sum(part[name].item() for part in parts) / len(parts) for name in parts[0]})
        gradients.append(gradients_of(model))
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-4, atol=1e-6)


def test_a_step_without_an_object_trains(tmp_path):
    edited(
        shapes_as_coco(tmp_path) / "annotations/instances_train2017.json",
        lambda content: content.update(annotations=[]),
    )
    recipe = small(tmp_path, data=dict(empty_images=True))
    task = create_task(recipe, torch.device("cpu"))
    model = build_model(recipe, dataset_info(recipe.data)).train()
    losses = task.loss(model, next(task.batches(start=0, micro_batch_size=2, rank=0, world_size=1)))
    losses.total.backward()
    assert losses.parts["loss_mask"] == 0 < losses.parts["loss_rpn_cls"]
    assert all(gradient.isfinite().all() for gradient in gradients_of(model).values())


def test_ghost_batch_norm_reaches_a_lazy_config(root):
    recipe = small(root, model=dict(name=LAZY, args={}, batch_norm="ghost"))
    layers = [
        module
        for module in build_model(recipe, dataset_info(recipe.data)).modules()
        if isinstance(module, torch.nn.BatchNorm2d)
    ]
    assert (
        len(layers) == 13 * 3 + 3
    )  # blocks and shortcuts of a ResNet-50; the stem and the first stage are frozen (freeze_at=2)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_photo_is_named(tmp_path, workers):
    for photo in (shapes_as_coco(tmp_path) / "train2017").iterdir():
        photo.write_bytes(b"no picture")
    task = create_task(small(tmp_path, data=dict(workers=workers)), torch.device("cpu"))
    with pytest.raises(
        DataError, match=r"train2017/\d+.png: image \d+ cannot be read by detectron2's mapper"
    ):
        next(task.batches(start=0, micro_batch_size=2, rank=0, world_size=1))


def test_a_misspelt_key_of_a_lazy_config_is_an_error_that_names_it(root):
    recipe = small(root, model=dict(name=LAZY, args={"model.roi_heads.batch_size_per_imag": 16}))
    with pytest.raises(RecipeError, match="batch_size_per_imag"):
        build_model(recipe, dataset_info(recipe.data))


FROZEN = dict(batch_norm="frozen", args={})


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (dict(name="COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml"), "no Mask R-CNN"),
        (dict(name=YAML, args={"MODEL.MASK_ON": False}), "no Mask R-CNN"),
        (dict(name="COCO-Keypoints/keypoint_rcnn_R_50_FPN_1x.yaml"), "no Mask R-CNN"),
        (dict(name="COCO-Keypoints/keypoint_rcnn_R_50_FPN_1x.py"), "no Mask R-CNN"),
        (dict(name=YAML, args={"MODEL.KEYPOINT_ON": True}), "no Mask R-CNN"),
        (dict(name="COCO-Detection/fast_rcnn_R_50_FPN_1x.yaml"), "no Mask R-CNN"),
        (dict(name="COCO-Detection/rpn_R_50_FPN_1x.yaml"), "no Mask R-CNN"),
        (dict(name="COCO-Detection/retinanet_R_50_FPN_1x.yaml"), "no Mask R-CNN"),
        (dict(name="COCO-Detection/retinanet_R_50_FPN_1x.py"), "no Mask R-CNN"),
        (dict(name="COCO-PanopticSegmentation/panoptic_fpn_R_50_1x.yaml"), "no Mask R-CNN"),
        (dict(name="COCO-PanopticSegmentation/panoptic_fpn_R_50_1x.py"), "no Mask R-CNN"),
        (dict(name="Misc/mask_rcnn_R_50_FPN_3x_syncbn.yaml"), "is a SyncBatchNorm.*MODEL.FPN.NORM"),
        (
            dict(name="Misc/mask_rcnn_R_50_FPN_3x_syncbn.yaml", batch_norm="ghost"),
            r"backbone.fpn_lateral2.norm is a SyncBatchNorm",
        ),
        (
            dict(name="new_baselines/mask_rcnn_R_50_FPN_100ep_LSJ.py"),
            "SyncBatchNorm.*mask_head.conv_norm.*batch_norm=ghost",
        ),
        (
            dict(name="COCO-InstanceSegmentation/mask_rcnn_R_50_C4_1x.yaml", batch_norm="ghost"),
            "roi_heads.res5.*model.batch_norm=frozen",
        ),
        (dict(name=YAML, args={"MODEL.ROI_MASK_HEAD.NORM": "BN"}), "roi_heads.mask_head.* is a BatchNorm2d"),
        (dict(name="COCO-InstanceSegmentation/mask_rcnn_R_51_FPN_1x.yaml"), "not available in Model Zoo"),
        (dict(name=YAML, args={"MODEL.RESNETS.DEPTH": 51}), "KeyError: 51"),
        (dict(name=YAML, args={"MODEL.RESNET.DEPTH": 50}), "Non-existent key: MODEL.RESNET.DEPTH"),
        (dict(name=LAZY, args={"modle.roi_heads.num_classes": 3}), "has no modle.roi_heads.num_classes"),
        (dict(name=LAZY, args={"model.roi_head.num_classes": 3}), "has no model.roi_head, "),
        (
            dict(name=LAZY, args={"dataloader.train.mapper.instance_mask_formt": "bitmask"}),
            "instance_mask_formt",
        ),
        (dict(name=LAZY, args={"dataloader.test.mapper.augmentations.0.max_sise": 9}), "max_sise"),
    ],
)
def test_a_config_that_cannot_be_trained_is_rejected_in_the_plan(root, model, said):
    recipe = small(root, model=FROZEN | model)
    with pytest.raises(RecipeError, match=said):
        model_statistics(recipe, dataset_info(recipe.data))


@pytest.mark.parametrize(
    ("name", "args", "batch_norm"),
    [
        # As the refusals of these say.
        ("Misc/mask_rcnn_R_50_FPN_3x_syncbn.yaml", dict.fromkeys(_YAML_NORM_KEYS, "GN"), "ghost"),
        ("new_baselines/mask_rcnn_R_50_FPN_100ep_LSJ.py", dict.fromkeys(_LAZY_NORM_KEYS, "GN"), "ghost"),
        (YAML, {}, "ghost"),
        (YAML, {"MODEL.FPN.NORM": "BN"}, "ghost"),
        (LAZY, {}, "frozen"),
        (LAZY, {}, "ghost"),
        ("COCO-InstanceSegmentation/mask_rcnn_R_50_C4_1x.yaml", {}, "frozen"),
        ("Misc/cascade_mask_rcnn_R_50_FPN_1x.yaml", {}, "frozen"),
        ("Misc/mask_rcnn_R_50_FPN_3x_gn.yaml", {}, "frozen"),
        ("COCO-InstanceSegmentation/mask_rcnn_R_50_DC5_1x.yaml", {}, "ghost"),
    ],
)
def test_other_configs_are_not(root, name, args, batch_norm):
    recipe = small(root, model=dict(name=name, args=args, batch_norm=batch_norm))
    assert model_statistics(recipe, dataset_info(recipe.data)).parameters > 10**7


def weights(path: Path, content) -> Path:
    torch.save(content, path)
    return path


def test_a_deformable_resnet_takes_the_file_of_a_plain_one(root, tmp_path):
    """Its offsets begin at zero: no classifier has them."""
    deep = SMALL | {"MODEL.RESNETS.DEPTH": 50, "MODEL.RESNETS.RES2_OUT_CHANNELS": 256}
    plain = build_model(small(root, model=dict(args=deep)), dataset_info(small(root).data)).state_dict()
    file = weights(
        tmp_path / "R-50.pth",
        {"model": {name: tensor for name, tensor in plain.items() if "bottom_up" in name}},
    )
    args = deep | {"MODEL.RESNETS.DEFORM_ON_PER_STAGE": [False, True, True, True]}
    loaded = build_model(
        small(root, seed=1, model=dict(weights=str(file), args=args)), dataset_info(small(root).data)
    ).state_dict()
    assert any(".conv2_offset." in name for name in loaded)
    name = "backbone.bottom_up.res5.2.conv3.weight"
    assert torch.equal(loaded[name], plain[name])


def test_weights_of_the_backbone_are_loaded_and_others_rejected(root, tmp_path):
    def loaded(path: Path, seed: int = 1) -> torch.nn.Module:
        recipe = small(root, seed=seed, model=dict(weights=str(path)))
        return build_model(recipe, dataset_info(recipe.data))

    whole = build_model(small(root), dataset_info(small(root).data)).state_dict()
    body = {name: tensor for name, tensor in whole.items() if name.startswith("backbone.bottom_up.")}
    assert 20 < len(body) < len(whole)
    again = loaded(weights(tmp_path / "body.pth", {"model": body})).state_dict()
    assert all(torch.equal(again[name], tensor) for name, tensor in body.items())
    lacking = dict(list(body.items())[1:])
    other = {name: tensor[:1] if tensor.dim() == 4 else tensor for name, tensor in body.items()}
    said = r"model.weights=.*pth lacks backbone.bottom_up\."
    for content in ({"model": lacking}, {"model": other}, {"model": {"layer1.weight": torch.zeros(3)}}):
        with pytest.raises(RecipeError, match=said):
            loaded(weights(tmp_path / "others.pth", content))
    with pytest.raises(
        RecipeError, match=r"model.weights=.*run.pt cannot be read as weights of detectron2: "
    ):
        loaded(weights(tmp_path / "run.pt", {"state_dict": whole}))
    with pytest.raises(
        RecipeError, match=r"model.weights=.*nowhere.pkl cannot be read as weights of detectron2: .*not found"
    ):
        loaded(tmp_path / "nowhere.pkl")
    (tmp_path / "text.pkl").write_bytes(b"no weights")
    with pytest.raises(RecipeError, match=r"model.weights=.*text.pkl cannot be read"):
        loaded(tmp_path / "text.pkl")


def test_running_statistics_may_be_missing(root, tmp_path):
    """Files of frozen layers have none, and ghost batch norm makes its own."""
    recipe = small(root, model=dict(args=SMALL | {"MODEL.RESNETS.NORM": "BN"}))
    state = build_model(recipe, dataset_info(recipe.data)).state_dict()
    kept = {
        name: tensor for name, tensor in state.items() if "running" not in name and "num_batches" not in name
    }
    assert len(kept) < len(state)
    path = weights(tmp_path / "body.pth", {"model": kept})
    build_model(recipe.vary(model=dict(weights=str(path))), dataset_info(recipe.data))
