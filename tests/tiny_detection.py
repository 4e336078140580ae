"""A Mask R-CNN that is small enough to be run in every combination."""

from typing import Any

from lbtrain import Recipe

TINY: dict[str, Any] = dict(
    batch_size=8,
    bn_batch_size=2,
    loss_batch_size=2,
    duration="6it",
    model=dict(
        library="torchvision",
        name="resnet18",
        args=dict(
            backbone=dict(layers=[1, 1, 1, 1], channels=[8, 16, 16, 16]), channels=16, box_features=16, mask_channels=16, mask_layers=1,
            smallest_anchor=8, rpn_batch_size_per_image=32, rpn_pre_nms_top_n_train=50, rpn_pre_nms_top_n_test=50,
            rpn_post_nms_top_n_train=20, rpn_post_nms_top_n_test=20, box_batch_size_per_image=16, box_detections_per_img=5,
            box_score_thresh=0.0,
        ),
    ),
    data=dict(name="shapes", image_size=64, augmentation="flip", empty_images=True),
    schedule=dict(base_lr=0.002, base_batch_size=8, warmup="3it", warmup_start_lr=0.0005, decay="cosine"),
    log_every="1it",
    evaluate_every="1dur",
    checkpoint=dict(every="3it"),
)  # fmt: skip


def tiny(**changes: Any) -> Recipe:
    return Recipe().vary(**TINY).vary(**changes)


def run_tiny(changes: dict[str, Any], run_dir: str, eval_images: int) -> dict[str, Any]:
    """One rank's part of a run that scores so many images; importable by the workers."""
    import dataclasses

    import lbtrain.data.registry as registry
    from lbtrain.main import run

    whole = registry._FACTS["shapes"]
    registry._FACTS["shapes"] = dataclasses.replace(whole, eval_examples=eval_images)
    try:
        return run(tiny(**changes).vary(run_dir=run_dir), "tiny", on_screen=False)
    finally:
        registry._FACTS["shapes"] = whole
