"""ResNet-50 as He et al. 2016 and the Caffe models have it: the stride of a stage stands in the first
convolution of its first block, where timm and torchvision have it in the 3 x 3 convolution.

`resnet50_v1` is models/resnet50/train_val.prototxt of the LARS paper's first author
(github.com/borisgin/nvcaffe, branch caffe-0.16_lars): batch norm with eps 1e-4, every gamma 1, weights of
convolutions and classifier of variance 2 / fan-in, biases 0.
"""

from functools import partial
from typing import Any, cast

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.resnet import Bottleneck, ResNet
from torch import nn

default_cfgs = generate_default_cfgs(
    {
        "resnet50_v1": {
            "input_size": (3, 224, 224),
            "pool_size": (7, 7),
            "first_conv": "conv1",
            "classifier": "fc",
        }
    }
)


@register_model
def resnet50_v1(pretrained: bool = False, **kwargs: Any) -> ResNet:
    """For 224 x 224 pixels (You et al. 2017, Table 4)."""
    settings: dict[str, Any] = dict(
        block=Bottleneck, layers=(3, 4, 6, 3), norm_layer=partial(nn.BatchNorm2d, eps=1e-4)
    )
    settings |= {"zero_init_last": False} | kwargs
    model: Any = build_model_with_cfg(ResNet, "resnet50_v1", pretrained, **settings)
    for stage in (model.layer2, model.layer3, model.layer4):
        first = next(iter(stage))
        first.conv1.stride, first.conv2.stride = first.conv2.stride, first.conv1.stride
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return cast(ResNet, model)
