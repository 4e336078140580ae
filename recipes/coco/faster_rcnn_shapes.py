"""Faster R-CNN with a small backbone on drawn shapes: boxes on a laptop, without data, weights or a GPU.

The settings are those of mask_rcnn_shapes, which were tuned with masks.

Run        python recipes/coco/faster_rcnn_shapes.py
Published  nothing: the shapes are drawn by lbtrain.data.shapes
Measured   not yet
"""

from mask_rcnn_shapes import recipe as mask_rcnn

from lbtrain import main

# Peak learning rate 0.01.
recipe = mask_rcnn.vary(
    model=dict(
        detector="faster_rcnn",
        args={name: value for name, value in mask_rcnn.model.args.items() if not name.startswith("mask_")},
    ),
)

if __name__ == "__main__":
    main(recipe)
