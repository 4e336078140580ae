"""ViT-S/16 on ImageNet at 1,024 images a step with AdamW, 150 epochs (Beyer et al. 2022, "Better plain ViT
baselines").

Run        deepspeed --hostfile hostfiles/1x8 recipes/imagenet/vit_s16_150.py data.root=/data/imagenet
Published  nothing: the figure stands in the paper, which was not at hand
Differs    in what vit_s16_90 lists
Measured   not yet
"""

from vit_s16_90 import recipe as shortest

from lbtrain import main

# Peak learning rate 0.001.
recipe = shortest.vary(duration="150ep")

if __name__ == "__main__":
    main(recipe)
