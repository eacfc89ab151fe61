"""The networks, taken from the notebooks, against the numbers that the book is about."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from tools import notebooks

ALEXNET_SHAPES = """
Conv2d 96 54 54, ReLU 96 54 54, MaxPool2d 96 26 26, Conv2d 256 26 26, ReLU 256 26 26,
MaxPool2d 256 12 12, Conv2d 384 12 12, ReLU 384 12 12, Conv2d 384 12 12, ReLU 384 12 12,
Conv2d 256 12 12, ReLU 256 12 12, MaxPool2d 256 5 5, Flatten 6400, Linear 4096, ReLU 4096,
Dropout 4096, Linear 4096, ReLU 4096, Dropout 4096, Linear 10"""
VGG_HEAD = "Linear 4096, ReLU 4096, Dropout 4096, Linear 4096, ReLU 4096, Dropout 4096, Linear 10"
VGG_SHAPES = f"""
Sequential 64 112 112, Sequential 128 56 56, Sequential 256 28 28, Sequential 512 14 14,
Sequential 512 7 7, Flatten 25088, {VGG_HEAD}"""
SMALL_VGG_SHAPES = f"""
Sequential 16 112 112, Sequential 32 56 56, Sequential 64 28 28, Sequential 128 14 14,
Sequential 128 7 7, Flatten 6272, {VGG_HEAD}"""
NIN_SHAPES = """
Sequential 96 54 54, MaxPool2d 96 26 26, Sequential 256 26 26, MaxPool2d 256 12 12,
Sequential 384 12 12, MaxPool2d 384 5 5, Dropout 384 5 5, Sequential 10 5 5,
AdaptiveAvgPool2d 10 1 1, Flatten 10"""
GOOGLENET_SHAPES = """
Sequential 64 24 24, Sequential 192 12 12, Sequential 480 6 6, Sequential 832 3 3,
Sequential 1024, Linear 10"""

# The networks that the source has too. Name: chapter, side, shapes, parameters, MFLOPs of a forward
# image.
NETWORKS = {
    "alexnet": ("alexnet", 224, ALEXNET_SHAPES, 46_764_746, 1_876),
    "vgg11": ("vgg", 224, VGG_SHAPES, 128_806_154, 15_094),
    "vgg": ("vgg", 224, SMALL_VGG_SHAPES, 43_093_322, 1_024),
    "nin": ("nin", 224, NIN_SHAPES, 1_992_166, 1_525),
    "googlenet": ("googlenet", 96, GOOGLENET_SHAPES, 5_977_530, 552),
}


def build(name, device="meta"):
    """A fresh network, as the chapter defines it; on "meta" it has shapes and no numbers.

    `name` is a chapter's, for its `net`, or vgg11.
    """
    with torch.device(device):
        namespace = notebooks.network_namespace("vgg" if name == "vgg11" else name)
        return namespace["vgg"](namespace["conv_arch"]) if name == "vgg11" else namespace["net"]


def layer_shapes(net, side):
    """Class and output shape of each layer of a net, for an image of the given side."""
    X, found = torch.empty(1, 1, side, side, device="meta"), []
    for layer in net.eval():
        X = layer(X)
        found.append((type(layer).__name__, *X.shape[1:]))
    return found


def leaves(net):
    """The layers that have no layers inside, in order."""
    return [module for module in net.modules() if not list(module.children())]


def kinds(net):
    return [type(layer).__name__ for layer in leaves(net)]


def pools(net):
    """(kind, kernel, stride, padding) of every pooling layer but the global ones."""
    return [
        (type(p).__name__, p.kernel_size, p.stride, p.padding)
        for p in leaves(net)
        if isinstance(p, (nn.MaxPool2d, nn.AvgPool2d))
    ]


@pytest.mark.parametrize("name", NETWORKS)
def test_shapes_parameters_and_flops(name):
    _, side, shapes, num_params, mflops = NETWORKS[name]
    net = build(name)
    with FlopCounterMode(display=False) as counter:
        found = [" ".join(map(str, shape)) for shape in layer_shapes(net, side)]
    told = "NETWORKS in tests/test_networks.py against the network of the chapter"
    assert found == [line.strip() for line in shapes.replace("\n", " ").split(",")], told
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


def test_alexnet_structure():
    net = build("alexnet")
    convs = [m for m in net if isinstance(m, nn.Conv2d)]
    assert [(c.kernel_size[0], c.stride[0], c.padding[0]) for c in convs] == [
        (11, 4, 0), (5, 1, 2), (3, 1, 1), (3, 1, 1), (3, 1, 1)]  # fmt: skip
    assert pools(net) == [("MaxPool2d", 3, 2, 0)] * 3
    assert [m.p for m in net if isinstance(m, nn.Dropout)] == [0.5, 0.5]


def test_lenet_of_chapter_1_averages_and_has_sigmoids():
    lenet = notebooks.network_namespace("alexnet")["lenet"]
    assert [kind for kind, *_ in pools(lenet)] == ["AvgPool2d"] * 2
    assert "ReLU" not in kinds(lenet) and kinds(lenet).count("Sigmoid") == 4
    assert lenet(torch.rand(1, 1, 28, 28)).shape == (1, 10)


@pytest.mark.parametrize("name", ["vgg11", "vgg"])
def test_vgg_structure(name):
    net = build(name)
    expected = []
    for num_convs in (1, 1, 2, 2, 2):
        expected += ["Conv2d", "ReLU"] * num_convs + ["MaxPool2d"]
    head = ["Flatten", "Linear", "ReLU", "Dropout", "Linear", "ReLU", "Dropout", "Linear"]
    assert kinds(net) == expected + head
    for layer in leaves(net):
        if isinstance(layer, nn.Conv2d):
            assert (layer.kernel_size, layer.stride, layer.padding) == ((3, 3), (1, 1), (1, 1))
    assert pools(net) == [("MaxPool2d", 2, 2, 0)] * 5
    assert [m.p for m in leaves(net) if isinstance(m, nn.Dropout)] == [0.5, 0.5]


def test_vgg_architectures():
    namespace = notebooks.network_namespace("vgg")
    assert namespace["conv_arch"] == ((1, 64), (1, 128), (2, 256), (2, 512), (2, 512))
    assert namespace["small_conv_arch"] == [(1, 16), (1, 32), (2, 64), (2, 128), (2, 128)]


def test_nin_structure():
    net = build("nin")
    block = ["Conv2d", "ReLU"] * 3
    assert kinds(net) == [*block, "MaxPool2d", *block, "MaxPool2d", *block, "MaxPool2d",
                          "Dropout", *block, "AdaptiveAvgPool2d", "Flatten"]  # fmt: skip
    convs = [m for m in leaves(net) if isinstance(m, nn.Conv2d)]
    first = [(c.kernel_size[0], c.stride[0], c.padding[0]) for c in convs[::3]]
    assert first == [(11, 4, 0), (5, 1, 2), (3, 1, 1), (3, 1, 1)]
    assert all(c.kernel_size == (1, 1) for i, c in enumerate(convs) if i % 3)
    assert pools(net) == [("MaxPool2d", 3, 2, 0)] * 3
    assert next(m for m in net if isinstance(m, nn.Dropout)).p == 0.5


def test_googlenet_modules_and_channels():
    net = build("googlenet")
    assert kinds(net[0]) == ["Conv2d", "ReLU", "MaxPool2d"]
    assert kinds(net[1]) == ["Conv2d", "ReLU", "Conv2d", "ReLU", "MaxPool2d"]
    first = net[0][0]
    assert (first.kernel_size, first.stride, first.padding) == ((7, 7), (2, 2), (3, 3))
    inceptions = [m for m in net.modules() if type(m).__name__ == "Inception"]
    reached = []
    for block in inceptions:
        convs = [m for m in block.modules() if isinstance(m, nn.Conv2d)]
        reached.append(block(torch.rand(1, convs[0].in_channels, 3, 3, device="meta")).shape[1])
    assert reached == [256, 480, 512, 512, 512, 528, 832, 832, 1024]
    between = [p for module in net[:4] for p in module if isinstance(p, nn.MaxPool2d)]
    assert [(p.kernel_size, p.stride, p.padding) for p in between] == [(3, 2, 1)] * 4
    assert kinds(net[4])[-2:] == ["AdaptiveAvgPool2d", "Flatten"]
    assert (net[5].in_features, net[5].out_features) == (1024, 10)


def test_inception_pads_its_paths_and_has_relu_after_every_convolution():
    block = notebooks.network_namespace("googlenet")["Inception"](192, 64, (96, 128), (16, 32), 32)
    convs = sorted(
        (layer.kernel_size[0], layer.padding[0], layer.out_channels)
        for layer in leaves(block)
        if isinstance(layer, nn.Conv2d)
    )
    assert convs == [(1, 0, 16), (1, 0, 32), (1, 0, 64), (1, 0, 96), (3, 1, 128), (5, 2, 32)]
    assert pools(block) == [("MaxPool2d", 3, 1, 1)]
    # With large negative biases everywhere, every convolution yields negative numbers. If none
    # reaches the next convolution or the output, there is a ReLU after each.
    seen = []
    for conv in (layer for layer in leaves(block) if isinstance(layer, nn.Conv2d)):
        conv.register_forward_pre_hook(lambda _, args: seen.append(args[0].min().item()))
        nn.init.constant_(conv.bias, -1e3)
    assert block(torch.rand(1, 192, 6, 6)).abs().max() == 0
    assert len(seen) == 6 and min(seen) >= 0
