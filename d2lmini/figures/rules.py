"""What a layer makes of the shape it is given, as data that a script on the page can compute with.

`rule_of_module` and `rule_of_function` give a rule, or None where it is not known. `network_data`
gives a whole network:

    {"c": 1, "side": 28, "layers": [
        {"op": "conv", "k": 5, "p": 2, "o": 6, "w": 156},
        {"op": "same"},
        {"op": "pool", "k": 2, "s": 2}, ...]}

c, side     the input is c×side×side
layers      in the order they ran; the input is number 0, the first layer number 1
from        numbers of those whose outputs a layer takes; left out where it is the one before
w           parameters, shared ones counted once; left out where there are none; beside `layers`:
            those that no layer holds
op          conv    k kernel, s stride, p padding (or "same"), d dilation, g groups, o channels
            pool    k window, s, p, d, ceil: 1 in ceil mode
            adapt   o output size, null for as it comes
            fc      i features it takes, o features it makes; `tied`: 1 in a network where a
                    weight serves two of them, so that none is to be thought of another size
            flat    all axes become one
            same    the shape stays; n: features that it insists on
            cat     along the channels (of vectors: the features)
            add     with broadcasting; `into`: 1 where the first has to keep its shape

A pair stands where the two directions differ, one number where they are equal; 1 for a stride,
dilation or groups, and 0 for padding, are left out.
"""

import torch
from torch import nn

from d2lmini.figures.structure import IN

__all__ = ["network_data", "number_layers", "rule_of_function", "rule_of_module"]

SAME = {"op": "same"}
FLATTEN = {"op": "flat"}
# Of each element its own value, or of its neighbours', whatever the shape.
SHAPE_STAYS = (
    nn.Identity, nn.Sequential,  # the latter is a leaf only where it is empty
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.CELU, nn.SELU, nn.GELU, nn.SiLU, nn.Mish,
    nn.Sigmoid, nn.LogSigmoid, nn.Hardsigmoid, nn.Tanh, nn.Hardtanh, nn.Hardswish, nn.Softplus,
    nn.Softsign, nn.Softmax, nn.LogSoftmax, nn.LocalResponseNorm, nn.BatchNorm2d,
    nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.AlphaDropout, nn.FeatureAlphaDropout,
)  # fmt: skip
FUNCTIONS_SHAPE_STAYS = {"relu", "sigmoid", "tanh", "gelu", "softmax", "dropout"}


def rule_of_module(module):
    """The rule of a leaf module; subclasses may do as they like, so only torch's own have one."""
    kind = type(module)
    if kind is nn.Conv2d and module.padding_mode == "zeros":
        padding = 0 if module.padding == "valid" else module.padding
        sizes = _sizes(module.kernel_size, module.stride, padding, module.dilation)
        groups = {"g": module.groups} if module.groups != 1 else {}
        return {"op": "conv", **sizes, **groups, "o": module.out_channels}
    if kind in (nn.MaxPool2d, nn.AvgPool2d) and not getattr(module, "return_indices", False):
        dilation = getattr(module, "dilation", 1)
        sizes = _sizes(module.kernel_size, module.stride, module.padding, dilation)
        return {"op": "pool", **sizes, **({"ceil": 1} if module.ceil_mode else {})}
    if kind is nn.AdaptiveAvgPool2d or (kind is nn.AdaptiveMaxPool2d and not module.return_indices):
        return {"op": "adapt", "o": _short(module.output_size)}
    if kind is nn.Linear:
        return {"op": "fc", "i": module.in_features, "o": module.out_features}
    if kind is nn.Flatten and (module.start_dim, module.end_dim) == (1, -1):
        return FLATTEN
    if kind is nn.BatchNorm1d:
        return {**SAME, "n": module.num_features}
    if kind is nn.PReLU:
        return {**SAME, "n": module.num_parameters} if module.num_parameters > 1 else SAME
    return SAME if kind in SHAPE_STAYS else None


def rule_of_function(function, name, args, kwargs):
    """The rule of a function called with `args` and `kwargs`, `name` without underscores."""
    x = args[0] if args else None
    if name in ("cat", "concat"):
        tensors = kwargs.get("tensors", x)
        dim = kwargs.get("dim", args[1] if len(args) > 1 else 0)
        same_axis = all(dim in (1, 1 - tensor.dim()) for tensor in tensors)
        return {"op": "cat"} if same_axis and kwargs.keys() <= {"tensors", "dim"} else None
    if not isinstance(x, torch.Tensor):
        return None
    if name in ("add", "iadd", "radd"):
        return _sum(function, [*args, *kwargs.values()])
    if name == "flatten":
        given = dict(zip(("start_dim", "end_dim"), args[1:], strict=False)) | kwargs
        start, end = given.get("start_dim", 0), given.get("end_dim", -1)
        return FLATTEN if start == 1 and end in (-1, x.dim() - 1) else None
    if name in ("view", "reshape"):
        shape = args[1] if len(args) == 2 and isinstance(args[1], (tuple, list)) else args[1:]
        return FLATTEN if x.dim() and tuple(shape) == (len(x), -1) else None
    return SAME if name in FUNCTIONS_SHAPE_STAYS else None


def _sum(function, values):
    """The rule of a sum: of two tensors, or of a tensor and a number."""
    if sum(isinstance(value, torch.Tensor) for value in values) == 1:
        return SAME
    in_place = function.__name__ in ("add_", "__iadd__")
    return {"op": "add", **({"into": 1} if in_place else {})}


def network_data(root, input_shape):
    """A traced network as in the module's docstring, or None where a part of it is not known.

    root: as from `tracing.trace`. input_shape: without the batch axis.
    """
    if len(input_shape) != 3 or input_shape[1] != input_shape[2] or not root.layers:
        return None
    numbers = number_layers(root)
    linear = [layer for layer in root.layers if layer.rule and layer.rule["op"] == "fc"]
    tied = any(layer.params < layer.rule["i"] * layer.rule["o"] for layer in linear)
    layers = []
    for number, layer in enumerate(root.layers, start=1):
        takes = [numbers.get(operand) for operand in layer.operands]
        rule = layer.rule
        if rule is None or None in takes or (len(takes) != 1 and rule["op"] not in ("cat", "add")):
            return None
        if rule["op"] == "fc" and tied:
            rule = {**rule, "tied": 1}
        if takes != [number - 1]:
            rule = {**rule, "from": takes}
        layers.append({**rule, **({"w": layer.params} if layer.params else {})})
    others = {"w": root.other_params} if root.other_params else {}
    return {"c": input_shape[0], "side": input_shape[1], **others, "layers": layers}


def number_layers(root):
    """Layer -> its number in `network_data`; the input's is 0."""
    return {IN: 0, **{layer: number for number, layer in enumerate(root.layers, start=1)}}


def _sizes(kernel, stride, padding, dilation):
    """Kernel, stride, padding and dilation, without those that change nothing."""
    values = {"k": (kernel, None), "s": (stride, 1), "p": (padding, 0), "d": (dilation, 1)}
    return {
        key: _short(value) for key, (value, nothing) in values.items() if _short(value) != nothing
    }


def _short(size):
    """(2, 2) as 2; (2, 1) and single values stay."""
    return size[0] if isinstance(size, (tuple, list)) and size[0] == size[1] else size
