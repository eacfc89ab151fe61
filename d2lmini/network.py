"""What is done to a network besides training it: its mode, its number format, its first weights."""

import contextlib
import itertools

import torch
from torch import nn
from torch.nn.utils import parametrize


def device_of(net):
    """The device of the network's first parameter; the CPU for one without parameters."""
    return next((parameter.device for parameter in net.parameters()), torch.device("cpu"))


def dtype_of(net):
    """The number format of the network's first floating-point parameter; else float32."""
    return next(filter(torch.Tensor.is_floating_point, net.parameters()), torch.empty(0)).dtype


@contextlib.contextmanager
def evaluation_mode(net):
    """Put `net` into evaluation mode, and afterwards each of its modules back as it was."""
    with contextlib.ExitStack() as stack:
        for module in net.modules():
            stack.callback(setattr, module, "training", module.training)
        net.eval()
        yield


def is_lazy(net):
    """Whether layers still wait for their first input to know their sizes."""
    return any(map(nn.parameter.is_lazy, itertools.chain(net.parameters(), net.buffers())))


def lay_out(net, layout):
    """Have the weights of two-dimensional layers in this memory format; others have none."""
    for tensor in itertools.chain(net.parameters(), net.buffers()):
        if not nn.parameter.is_lazy(tensor) and tensor.dim() == 4:
            tensor.data = tensor.data.to(memory_format=layout)


@torch.no_grad()
def init_xavier(module):
    """Xavier-uniform weights for a Linear or Conv2d that is to be trained; for `net.apply`.

    Also of parametrizations (not the deprecated `nn.utils.weight_norm`) and scripted modules.
    """
    scripted = getattr(module, "original_name", "") in ("Linear", "Conv2d")
    if not (scripted or isinstance(module, (nn.Linear, nn.Conv2d))):
        return
    if parametrize.is_parametrized(module, "weight"):
        if any(p.requires_grad for p in module.parametrizations.weight.parameters()):
            module.weight = nn.init.xavier_uniform_(torch.empty_like(module.weight))
    elif module.weight.requires_grad:
        nn.init.xavier_uniform_(module.weight)


def images_are_independent(net, X):
    """Whether the scores of an image of X (B, C, H, W) depend on it alone, in evaluation mode.

    What has parameters or buffers must be Linear or Conv2d, for others may take statistics of the
    batch; and two images must get the same scores alone as among four, in float64.
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
