"""ViT-S/16 on ImageNet at 1,024 images a step with NAdamW: the run that sets AlgoPerf's target (Dahl et al.
2023).

mlcommons/algorithmic-efficiency has the setting (tuning_search_space.json of the target) and the quality, an
accuracy of 77.309 %, at which the run ends.

Run        deepspeed --hostfile hostfiles/1x8 recipes/imagenet/vit_s16_algoperf.py data.root=/data/imagenet
Published  nothing but the bound: 100.7 epochs to top-1 error 22.691 %
Differs    in what vit_s16_90 lists, whose augmentation and network it has: those of AlgoPerf were not read.
           Hence no expectation
Measured   not yet
"""

from vit_s16_90 import recipe as plain

from lbtrain import main

# Peak learning rate 0.0008445.
recipe = plain.vary(
    duration="125999it",
    stop_at=["top1_accuracy>=77.309"],
    optimizer=dict(
        name="nadamw",
        weight_decay=0.08135402759553023,
        beta1=0.8895758153482813,
        beta2=0.9978504782314613,
        clip_norm=0.0,
    ),
    schedule=dict(base_lr=0.0008445074561975979, warmup="6999it"),
)

if __name__ == "__main__":
    main(recipe)
