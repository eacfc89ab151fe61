"""What is done to a network besides training it: its mode, its number format, its first weights."""

import contextlib
import itertools

import torch
from torch import nn
from torch.nn.utils import parametrize

__all__ = ["device_of", "dtype_of", "evaluation_mode", "images_are_independent", "init_xavier",
           "is_lazy", "run_on_meta", "uncompiled"]  # fmt: skip


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
    """Whether layers, or a tensor, still wait for a first input to know their sizes."""
    tensors = (
        itertools.chain(net.parameters(), net.buffers()) if isinstance(net, nn.Module) else [net]
    )
    return any(map(torch.nn.parameter.is_lazy, tensors))


def run_on_meta(net, X):
    """`net(X)` in shapes alone: `X` and all weights stand on the meta device meanwhile.

    The weights are named by their modules, each module once: given two names for one module,
    `functional_call` would leave the stand-ins in it.
    """
    stand_ins = {}  # tied weights stay tied
    state = {
        f"{prefix}.{name}" if prefix else name: stand_ins.setdefault(
            id(tensor), tensor.detach().to("meta")
        )
        for prefix, module in net.named_modules()
        for name, tensor in (*module._parameters.items(), *module._buffers.items())
        if tensor is not None
    }
    return torch.func.functional_call(net, state, (X.to("meta"),), tie_weights=False)


@torch.no_grad()
def init_xavier(module):
    """Xavier-uniform weights for a Linear or Conv2d that is to be trained; for `net.apply`.

    Glorot and Bengio, 2010. Also where the weight is computed from others, by `weight_norm` or
    `spectral_norm`, and in a module of `torch.jit.script`.
    """
    kind = getattr(module, "original_name", "")  # of a scripted module
    if not (isinstance(module, (nn.Linear, nn.Conv2d)) or kind in ("Linear", "Conv2d")):
        return
    weights = {name: p for name, p in module.named_parameters() if not name.startswith("bias")}
    if not any(parameter.requires_grad for parameter in weights.values()):
        return
    if parametrize.is_parametrized(module, "weight"):  # reading it may be a step of an iteration
        if isinstance(module, nn.Linear):
            shape = module.out_features, module.in_features
        else:
            shape = module.out_channels, module.in_channels // module.groups, *module.kernel_size
        like = next(iter(weights.values()))
        module.weight = nn.init.xavier_uniform_(like.new_empty(shape))
    elif "weight_v" in weights:  # torch.nn.utils.weight_norm: length and direction of each filter
        nn.init.xavier_uniform_(weights["weight_v"])
        weights["weight_g"].copy_(torch.norm_except_dim(weights["weight_v"], 2, 0))
    else:
        nn.init.xavier_uniform_(weights.get("weight_orig", module.weight))


def images_are_independent(net, X):
    """Whether the scores of an image of X (B, C, H, W) depend on it alone, in evaluation mode.

    Every module that has parameters or buffers must be Linear or Conv2d, for others may compute
    statistics of a batch; and two images must get the same scores alone as among four. That is
    found out in float64, in which rounding is far below what an image changes.
    """
    for module in net.modules():
        of_known_kind = isinstance(module, (nn.Linear, nn.Conv2d))
        if (module._parameters or module._buffers) and not of_known_kind:
            return False
    dtype = dtype_of(net)
    try:
        net.double()
        four = X[:4].double()
        together, alone = net(four), net(four[:2])
        return torch.allclose(together[:2], alone, rtol=1e-9, atol=1e-12)
    except (RuntimeError, TypeError):  # made for one batch size or number format
        return False
    finally:
        net.to(dtype)
