"""RetinaNet with a small backbone on drawn shapes: boxes on a laptop, without data, weights or a GPU.

Run        python recipes/coco/retinanet_shapes.py
Published  nothing: the shapes are drawn by lbtrain.data.shapes
Measured   not yet
"""

from mask_rcnn_shapes import recipe as mask_rcnn

from lbtrain import main

# Peak learning rate 0.01.
recipe = mask_rcnn.vary(
    loss_batch_size=1,
    model=dict(
        detector="retinanet",
        args=dict(
            backbone=mask_rcnn.model.args["backbone"],
            channels=32,
            smallest_anchor=16,  # the shapes have 15 to 46 pixels
            detections_per_img=20,
        ),
    ),
)

if __name__ == "__main__":
    main(recipe)
