"""The networks, taken from the notebooks, against the numbers that the book is about."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tools import notebooks

# What stands for several layers; "96 11/4+0" is a convolutional layer of 96 channels, window 11,
# stride 4, padding 0, with the ReLU after it.
SHORT = {
    "pool": ["MaxPool2d 3/2+0"],
    "padded pool": ["MaxPool2d 3/2+1"],
    "half": ["MaxPool2d 2/2+0"],
    "path pool": ["MaxPool2d 3/1+1"],
    "average": ["AdaptiveAvgPool2d", "Flatten"],
    "dropout": ["Dropout 0.5"],
    "head": ["Flatten", *["Linear 4096", "ReLU", "Dropout 0.5"] * 2, "Linear 10"],
    "linear": ["Linear 10"],
}


def layers(text):
    return [
        part for word in text.split(", ") for part in SHORT.get(word, [f"Conv2d {word}", "ReLU"])
    ]


def vgg(*channels):
    convs = zip((1, 1, 2, 2, 2), channels, strict=True)
    return layers("".join(f"{f'{width} 3/1+1, ' * num}half, " for num, width in convs) + "head")


def inception(c1, c2, c3, c4):
    return (f"{c1} 1/1+0, {c2[0]} 1/1+0, {c2[1]} 3/1+1, {c3[0]} 1/1+0, {c3[1]} 5/1+2, path pool, "
            f"{c4} 1/1+0")  # fmt: skip


LENET = [
    "Conv2d 6 5/1+2", "Sigmoid", "AvgPool2d 2/2+0", "Conv2d 16 5/1+0", "Sigmoid", "AvgPool2d 2/2+0",
    "Flatten", "Linear 120", "Sigmoid", "Linear 84", "Sigmoid", "Linear 10",
]  # fmt: skip
ALEXNET = layers("96 11/4+0, pool, 256 5/1+2, pool, 384 3/1+1, 384 3/1+1, 256 3/1+1, pool, head")
NIN = layers(
    "96 11/4+0, 96 1/1+0, 96 1/1+0, pool, 256 5/1+2, 256 1/1+0, 256 1/1+0, pool, "
    "384 3/1+1, 384 1/1+0, 384 1/1+0, pool, dropout, 10 3/1+1, 10 1/1+0, 10 1/1+0, average"
)
GOOGLENET = layers(", ".join([
    "64 7/2+3, padded pool, 64 1/1+0, 192 3/1+1, padded pool",
    inception(64, (96, 128), (16, 32), 32),
    inception(128, (128, 192), (32, 96), 64), "padded pool",
    inception(192, (96, 208), (16, 48), 64),
    inception(160, (112, 224), (24, 64), 64),
    inception(128, (128, 256), (24, 64), 64),
    inception(112, (144, 288), (32, 64), 64),
    inception(256, (160, 320), (32, 128), 128), "padded pool",
    inception(256, (160, 320), (32, 128), 128),
    inception(384, (192, 384), (48, 128), 128), "average, linear",
]))  # fmt: skip

# The networks that the source has too: side of the image, layers, parameters, MFLOPs of a forward
# image. What a layer's output is like follows from these; nbval compares what the chapters print.
NETWORKS = {
    "lenet": (28, LENET, 61_706, 1),
    "alexnet": (224, ALEXNET, 46_764_746, 1_876),
    "vgg11": (224, vgg(64, 128, 256, 512, 512), 128_806_154, 15_094),
    "vgg": (224, vgg(16, 32, 64, 128, 128), 43_093_322, 1_024),
    "nin": (224, NIN, 1_992_166, 1_525),
    "googlenet": (96, GOOGLENET, 5_977_530, 552),
}


def build(name, device="meta"):
    """A fresh network, as the chapter defines it; on "meta" it has shapes and no numbers.

    `name` is a chapter's, for its `net`, or vgg11, or lenet.
    """
    with torch.device(device):
        namespace = notebooks.network_namespace(
            {"vgg11": "vgg", "lenet": "alexnet"}.get(name, name)
        )
        if name == "vgg11":
            return namespace["vgg"](namespace["conv_arch"])
        return namespace["lenet" if name == "lenet" else "net"]


def told(module):
    """A layer in the words of the tables above."""
    kind = type(module).__name__
    if kind in ("Linear", "Dropout"):
        return f"{kind} {module.out_features if kind == 'Linear' else module.p}"
    if not hasattr(module, "stride"):
        return kind
    window, stride, padding = (
        value[0] if isinstance(value, tuple) else value
        for value in (module.kernel_size, module.stride, module.padding)
    )
    channels = f"{module.out_channels} " if kind == "Conv2d" else ""
    return f"{kind} {channels}{window}/{stride}+{padding}"


@pytest.mark.parametrize("name", NETWORKS)
def test_layers_parameters_and_flops(name):
    side, expected, num_params, mflops = NETWORKS[name]
    net, where = build(name), "NETWORKS in tests/test_networks.py against the chapter's network"
    leaves = [module for module in net.modules() if not list(module.children())]
    assert [told(module) for module in leaves] == expected, where
    with FlopCounterMode(display=False) as counter:
        assert net(torch.empty(1, 1, side, side, device="meta")).shape == (1, 10)
    assert sum(p.numel() for p in net.parameters()) == num_params, where
    assert round(counter.get_total_flops() / 1e6) == mflops, where
