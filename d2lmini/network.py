"""What is done to a network besides training it: its mode, its number format, its first weights."""

import contextlib
import itertools

import torch
from torch import nn
from torch.nn.utils import parametrize

__all__ = ["device_of", "dtype_of", "evaluation_mode", "images_are_independent", "init_xavier",
           "is_lazy", "uncompiled"]  # fmt: skip


def device_of(net):
    """The device of the network's first parameter; the CPU for one without parameters."""
    return next((parameter.device for parameter in net.parameters()), torch.device("cpu"))


def dtype_of(net):
    """The number format of the network's first floating-point parameter; else float32."""
    for parameter in net.parameters():
        if parameter.is_floating_point():
            return parameter.dtype
    return torch.float32


@contextlib.contextmanager
def evaluation_mode(net):
    """Put `net` into evaluation mode, and afterwards each of its modules back as it was."""
    modes = {}
    for module in net.modules():
        modes[module] = module.training
    net.eval()
    try:
        yield net
    finally:
        for module, mode in modes.items():
            module.training = mode


def uncompiled(net):
    """The network itself, where `net` is what `torch.compile` made of it."""
    return getattr(net, "_orig_mod", net)


def is_lazy(net):
    """Whether layers still wait for their first input to know their sizes."""
    return any(map(nn.parameter.is_lazy, itertools.chain(net.parameters(), net.buffers())))


@torch.no_grad()
def init_xavier(module):
    """Xavier-uniform weights for a Linear or Conv2d that is to be trained; for `net.apply`.

    Also where `weight_norm` or `spectral_norm` computes them, and in what `torch.jit.script` made.
    """
    scripted = getattr(module, "original_name", "") in ("Linear", "Conv2d")
    weights = {name: p for name, p in module.named_parameters() if not name.startswith("bias")}
    is_trained = any(parameter.requires_grad for parameter in weights.values())
    if not (isinstance(module, (nn.Linear, nn.Conv2d)) or scripted) or not is_trained:
        return
    if parametrize.is_parametrized(module, "weight"):  # reading it may be a step of an iteration
        shape = [module.out_features, module.in_features] if isinstance(module, nn.Linear) else [
            module.out_channels, module.in_channels // module.groups, *module.kernel_size
        ]  # fmt: skip
        module.weight = nn.init.xavier_uniform_(next(iter(weights.values())).new_empty(shape))
    elif "weight_v" in weights:  # torch.nn.utils.weight_norm: length and direction of each filter
        nn.init.xavier_uniform_(weights["weight_v"])
        weights["weight_g"].copy_(torch.norm_except_dim(weights["weight_v"], 2, 0))
    else:
        nn.init.xavier_uniform_(weights.get("weight_orig", module.weight))


def images_are_independent(net, X):
    """Whether the scores of an image of X (B, C, H, W) depend on it alone, in evaluation mode.

    What has parameters or buffers must be Linear or Conv2d, for others may compute statistics of a
    batch; and two images must get the same scores alone as among four, up to float64's rounding.
    """
    layers = [module for module in net.modules() if module._parameters or module._buffers]
    if not all(isinstance(module, (nn.Linear, nn.Conv2d)) for module in layers):
        return False
    dtype, X = dtype_of(net), X[:4].double()
    try:
        net.double()
        return torch.allclose(net(X)[:2], net(X[:2]), rtol=1e-9, atol=1e-12)
    except (RuntimeError, TypeError):  # made for one batch size or number format
        return False
    finally:
        net.to(dtype)
