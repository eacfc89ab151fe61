"""The networks, taken from the notebooks, against the numbers that the book is about."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from tools import notebooks


def conv(*layers, then="ReLU"):
    """Convolutional layers, "channels window/stride+padding", with an activation after each."""
    return [part for layer in layers for part in (f"Conv2d {layer}", then)]


def vgg(*channels):
    found = []
    for num_convs, width in zip((1, 1, 2, 2, 2), channels, strict=True):
        found += [*conv(*[f"{width} 3/1+1"] * num_convs), "MaxPool2d 2/2+0"]
    return found + HEAD


def nin(width, first):
    return conv(f"{width} {first}", *[f"{width} 1/1+0"] * 2)


def inception(c1, c2, c3, c4):
    paths = conv(f"{c1} 1/1+0", f"{c2[0]} 1/1+0", f"{c2[1]} 3/1+1", f"{c3[0]} 1/1+0",
                 f"{c3[1]} 5/1+2")  # fmt: skip
    return [*paths, "MaxPool2d 3/1+1", *conv(f"{c4} 1/1+0")]


HEAD = ["Flatten", *["Linear 4096", "ReLU", "Dropout 0.5"] * 2, "Linear 10"]
POOL, PADDED = "MaxPool2d 3/2+0", "MaxPool2d 3/2+1"
AVERAGE = ["AdaptiveAvgPool2d", "Flatten"]
LENET = [
    *conv("6 5/1+2", then="Sigmoid"), "AvgPool2d 2/2+0",
    *conv("16 5/1+0", then="Sigmoid"), "AvgPool2d 2/2+0",
    "Flatten", "Linear 120", "Sigmoid", "Linear 84", "Sigmoid", "Linear 10",
]  # fmt: skip
ALEXNET = [
    *conv("96 11/4+0"), POOL, *conv("256 5/1+2"), POOL,
    *conv("384 3/1+1", "384 3/1+1", "256 3/1+1"), POOL, *HEAD,
]  # fmt: skip
NIN = [
    *nin(96, "11/4+0"), POOL, *nin(256, "5/1+2"), POOL, *nin(384, "3/1+1"), POOL, "Dropout 0.5",
    *nin(10, "3/1+1"), *AVERAGE,
]  # fmt: skip
GOOGLENET = [
    *conv("64 7/2+3"), PADDED,
    *conv("64 1/1+0", "192 3/1+1"), PADDED,
    *inception(64, (96, 128), (16, 32), 32),
    *inception(128, (128, 192), (32, 96), 64), PADDED,
    *inception(192, (96, 208), (16, 48), 64),
    *inception(160, (112, 224), (24, 64), 64),
    *inception(128, (128, 256), (24, 64), 64),
    *inception(112, (144, 288), (32, 64), 64),
    *inception(256, (160, 320), (32, 128), 128), PADDED,
    *inception(256, (160, 320), (32, 128), 128),
    *inception(384, (192, 384), (48, 128), 128), *AVERAGE, "Linear 10",
]  # fmt: skip

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
        chapter = {"vgg11": "vgg", "lenet": "alexnet"}.get(name, name)
        namespace = notebooks.network_namespace(chapter)
        if name == "vgg11":
            return namespace["vgg"](namespace["conv_arch"])
        return namespace["lenet" if name == "lenet" else "net"]


def layer(module):
    """A layer in the words of the tables above."""
    kind = type(module).__name__
    if kind in ("Linear", "Dropout"):
        return f"{kind} {module.out_features if kind == 'Linear' else module.p}"
    if not hasattr(module, "stride"):
        return kind
    window, stride, padding = (
        value if isinstance(value, int) else "×".join(map(str, dict.fromkeys(value)))
        for value in (module.kernel_size, module.stride, module.padding)
    )
    channels = f"{module.out_channels} " if kind == "Conv2d" else ""
    return f"{kind} {channels}{window}/{stride}+{padding}"


@pytest.mark.parametrize("name", NETWORKS)
def test_layers_parameters_and_flops(name):
    side, layers, num_params, mflops = NETWORKS[name]
    net = build(name)
    told = "NETWORKS in tests/test_networks.py against the network of the chapter"
    leaves = [module for module in net.modules() if not list(module.children())]
    assert [layer(module) for module in leaves] == layers, told
    with FlopCounterMode(display=False) as counter:
        assert net(torch.empty(1, 1, side, side, device="meta")).shape == (1, 10)
    assert sum(p.numel() for p in net.parameters()) == num_params, told
    assert round(counter.get_total_flops() / 1e6) == mflops, told


@pytest.mark.parametrize("name", notebooks.names())
def test_the_trained_network_scores_ten_classes(name):
    side = notebooks.chapter(name).side
    assert build(name)(torch.empty(2, 1, side, side, device="meta")).shape == (2, 10)


@pytest.mark.slow
@pytest.mark.parametrize("name", notebooks.names())
def test_one_step_moves_every_parameter(name):
    torch.manual_seed(0)
    net, side = build(name, "cpu"), notebooks.chapter(name).side
    for module in net.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            # Variance kept from layer to layer: signal reaches every weight of a fresh network.
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.constant_(module.bias, 0.1)
    before = {key: p.detach().clone() for key, p in net.named_parameters()}
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    F.cross_entropy(net(torch.rand(4, 1, side, side)), torch.arange(4)).backward()
    optimizer.step()
    still = [key for key, p in net.named_parameters() if torch.equal(before[key], p)]
    assert still == []
