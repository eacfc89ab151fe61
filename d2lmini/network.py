"""What is done to a network besides training it: its place, its mode, its first weights."""

import contextlib
import functools
import hashlib
import inspect
import itertools
import types

import torch
from torch import nn

__all__ = [
    "code_digest",
    "device_of",
    "dtype_of",
    "evaluation_mode",
    "forward_digest",
    "init_xavier",
    "is_lazy",
    "run_on_meta",
    "uncompiled",
]


def device_of(net):
    """The device of the network's first parameter; the CPU for one without parameters."""
    return next((parameter.device for parameter in net.parameters()), torch.device("cpu"))


def dtype_of(net):
    """The number format of the network's first floating-point parameter; else float32."""
    floats = (p.dtype for p in net.parameters() if p.is_floating_point())
    return next(floats, torch.float32)


@contextlib.contextmanager
def evaluation_mode(net):
    """Put `net` into evaluation mode, and afterwards each of its modules back as it was."""
    modes = [(module, module.training) for module in net.modules()]
    net.eval()
    try:
        yield net
    finally:
        for module, mode in modes:
            module.training = mode


def uncompiled(net):
    """The network itself, where `net` is what `torch.compile` made of it."""
    return getattr(net, "_orig_mod", net)


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


def is_lazy(net):
    """Whether layers still wait for their first input to know their sizes."""
    return any(map(torch.nn.parameter.is_lazy, itertools.chain(net.parameters(), net.buffers())))


def init_xavier(module):
    """Xavier-uniform weights for a Linear or Conv2d that is to be trained; for `net.apply`."""
    if isinstance(module, (nn.Linear, nn.Conv2d)):
        # Asked by name: what stands for the weight may be computed anew each time it is read.
        weights = [p for name, p in module.named_parameters() if name != "bias"]
        if any(parameter.requires_grad for parameter in weights):
            nn.init.xavier_uniform_(module.weight)


def forward_digest(net):
    """A digest of the code of the network's own classes, which its printed form does not show.

    Texts that a module keeps belong to it, numbers do not, for it may count. Of the functions that
    the code calls elsewhere only the names are known.
    """
    known = []
    for module in uncompiled(net).modules():
        own = {}
        for cls in type(module).__mro__:
            if cls.__module__.startswith("torch.nn."):
                break
            own = {**vars(cls), **own}
        if own:
            own |= vars(module)  # an activation kept as an attribute, say
        for name, value in sorted(own.items()):
            value = getattr(value, "fget", value)  # of a property
            if inspect.isroutine(value) or isinstance(value, (functools.partial, str)):
                known.append(None if name.startswith("__") else _code(value))
    return _digest(known)


def code_digest(functions):
    """A digest of what functions do, not of their names and comments; of one in C, its name.

    It tells functions apart within one version of Python.
    """
    return _digest(list(map(_code, functions)))


def _digest(value):
    return hashlib.sha256(repr(value).encode()).hexdigest()[:16]


def _code(value):
    """A function, or a constant of one, as something whose repr is the same in every process."""
    if value is None or isinstance(value, (int, float, complex, str, bytes, type(...))):
        return value
    if isinstance(value, (tuple, list)):
        return [_code(item) for item in value]
    if isinstance(value, frozenset):
        return sorted(map(repr, value))
    if isinstance(value, functools.partial):
        return _code(value.func), _code(value.args), sorted(value.keywords), _code(
            list(value.keywords.values())
        )  # fmt: skip
    if isinstance(value, types.CodeType):
        return value.co_code, value.co_names, _code(value.co_consts)
    if inspect.isroutine(value):
        value = inspect.unwrap(getattr(value, "__func__", value))
        if not hasattr(value, "__code__"):
            return getattr(value, "__qualname__", "")
        return _code(value.__code__), _code(value.__defaults__), _closed_over(value)
    if inspect.isclass(value):
        return value.__qualname__
    if isinstance(value, torch.Tensor) or type(value).__name__ == "ndarray":
        value = torch.as_tensor(value)
        return tuple(value.shape), value.tolist() if value.numel() < 1000 else value.sum().item()
    if isinstance(value, nn.Module) and list(value.children()):
        return str(value)
    if isinstance(value, dict):
        return sorted((str(key), _code(item)) for key, item in value.items())
    # Of other objects, a transform's say, the name of the class and what it plainly keeps.
    kept = sorted(getattr(value, "__dict__", {}).items())
    plain = [(k, _code(v)) for k, v in kept if isinstance(v, (int, float, str, tuple, list))]
    return type(value).__qualname__, plain


def _closed_over(function):
    """What a nested function keeps of those around it; of functions, which may be it, the code."""
    found = []
    for cell in function.__closure__ or ():
        with contextlib.suppress(ValueError):  # an empty one
            value = cell.cell_contents
            found.append(_code(getattr(value, "__code__", value)))
    return found
