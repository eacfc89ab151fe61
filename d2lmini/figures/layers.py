"""What is known of each type of layer: its kind, its label in the field's notation, facts, rule.

One entry for a type: in `MODULES`, or in `FUNCTIONS` for one of `torch.nn.functional`, which names
the module that does the same. Other types get a plain box with their name. `describe_module` and
`describe_function` give the fields of a `structure.Layer`.

A rule is what a layer makes of the shape it is given, as data that a script on the page can compute
with (tools/site/static/shapes.js); a type without one has None. By its `op`:

conv    k kernel, s stride, p padding (or "same"), d dilation, g groups, o channels
pool    k window, s, p, d, ceil: 1 in ceil mode
adapt   o output size, null for as it comes
fc      i features it takes, o features it makes
flat    all axes become one
same    the shape stays; n: features that it insists on
cat     along the channels (of vectors: the features)
add     with broadcasting; `into`: 1 where the first has to keep its shape
"""

import contextlib
import re

import torch
from torch import nn

__all__ = ["describe_function", "describe_module"]

SAME, FLATTEN = {"op": "same"}, {"op": "flat"}


def describe_module(module):
    """Fields of the `Layer` that a leaf module is."""
    known = next((cls for cls in type(module).__mro__ if cls in MODULES), None)
    fields = MODULES[known](module) if known else _other(module)
    # A subclass may do as it likes with shapes.
    return fields if known is type(module) else {**fields, "rule": None}


def _fields(kind, operation, settings="", facts=(), rule=None, options=""):
    return {"kind": kind, "operation": operation, "settings": settings, "facts": tuple(facts),
            "rule": rule, "options": options}  # fmt: skip


def _other(module):
    name, file = type(module).__name__, type(module).__module__
    is_plain = re.search(r"torch\.nn\.modules\.(activation|instancenorm|normalization)$", file)
    if is_plain and not any(True for _ in module.children()):
        return _elementwise(module)
    return _fields("other", name, options="" if file.startswith("torch.") else "own")


def _elementwise(module):
    """Of each element its own value, or of its neighbours', whatever the shape."""
    name, rule = re.sub(r"[123]d$", "", type(module).__name__), SAME
    if isinstance(module, nn.modules.dropout._DropoutNd):
        name = f"Dropout {module.p:g}"
    elif getattr(module, "negative_slope", 0.01) != 0.01:
        name += f" {module.negative_slope:g}"
    if isinstance(module, nn.BatchNorm1d):
        rule = {**SAME, "n": module.num_features}
    elif getattr(module, "num_parameters", 1) > 1:  # PReLU
        rule = {**SAME, "n": module.num_parameters}
    options = re.sub(r"(, )?inplace=\w+", "", module.extra_repr())
    return _fields("elementwise", name, rule=rule, options=options)


def _no_bias(module):
    return [("偏置", "无")] * (module.bias is None)


def _convolution(module):
    kernel, padding = module.kernel_size, 0 if module.padding == "valid" else module.padding
    extras = [("stride", _size(module.stride), "1"), ("pad", _size(padding), "0"),
              ("dilation", _size(module.dilation), "1"),
              ("groups", str(module.groups), "1")]  # fmt: skip
    settings = [f"{name} {value}" for name, value, default in extras if value != default]
    facts = [("卷积核", _window(kernel)), ("步幅", _size(module.stride)), ("填充", _size(padding))]
    rule = None
    if module.padding_mode != "zeros":
        settings.append(module.padding_mode)
    elif isinstance(module, nn.Conv2d):
        groups = {"g": module.groups} if module.groups != 1 else {}
        sizes = _sizes(kernel, module.stride, padding, module.dilation)
        rule = {"op": "conv", **sizes, **groups, "o": module.out_channels}
    name = f"{_window(kernel)} {'Deconv' if module.transposed else 'Conv'}"
    settings = ", ".join([f"({module.out_channels})", *settings])
    return _fields("conv", name, settings, facts + _no_bias(module), rule)


def _fully_connected(module):
    facts = [("输入特征", f"{module.in_features:,}"), *_no_bias(module)]
    rule = {"op": "fc", "i": module.in_features, "o": module.out_features}
    return _fields("fc", "FC", f"({module.out_features})", facts, rule)


def _pooling(module):
    operation, dims = _operation_and_dims(module)
    kernel, padding = module.kernel_size, getattr(module, "padding", 0)
    stride, dilation = getattr(module, "stride", None) or kernel, getattr(module, "dilation", 1)
    ceil = {"ceil": 1} if getattr(module, "ceil_mode", False) else {}
    settings = [f"stride {_size(stride)}", *ceil]
    if _size(dilation) != "1":
        settings.insert(1, f"dilation {_size(dilation)}")
    if _size(padding) != "0":
        settings.insert(1, f"pad {_size(padding)}")
    window, rule = _window(kernel, dims), None
    facts = [("窗口", window), ("步幅", _size(stride)), ("填充", _size(padding))]
    returns_indices = getattr(module, "return_indices", False)
    if isinstance(module, (nn.MaxPool2d, nn.AvgPool2d)) and not returns_indices:
        rule = {"op": "pool", **_sizes(kernel, stride, padding, dilation), **ceil}
    return _fields("pool", f"{window} {operation}", ", ".join(settings), facts, rule)


def _adaptive_pooling(module):
    operation, dims = _operation_and_dims(module)
    sizes = module.output_size
    sizes = sizes if isinstance(sizes, (tuple, list)) else (sizes,) * dims
    is_known = dims == 2 and not getattr(module, "return_indices", False)
    rule = {"op": "adapt", "o": _short(sizes)} if is_known else None
    operation = operation.removeprefix("Adaptive")
    if set(sizes) == {1}:
        return _fields("pool", f"Global {operation}", rule=rule)
    names = [size or name for name, size in zip("DHW"[-dims:], sizes, strict=True)]
    return _fields("pool", f"Adaptive {operation}", f"output {_window(names)}", rule=rule)


def _upsampling(module):
    times = module.scale_factor
    size = f"output {_size(module.size)}" if times is None else f"(×{_size(times)})"
    return _fields("other", "Upsample", size)


def _flattening(module):
    is_whole = (module.start_dim, module.end_dim) == (1, -1)
    return _fields("reshape", "Flatten", rule=FLATTEN if is_whole else None)


def _identity(module):  # a Sequential is a leaf only where it is empty
    return _fields("identity", type(module).__name__, rule=SAME)


def _embedding(module):
    return _fields("other", "Embedding", f"({module.embedding_dim})")


def _types(names):
    """torch.nn's types; `Pool#d` stands for three."""
    for name in names.split():
        for n in "123" if "#" in name else "-":
            yield getattr(nn, name.replace("#", n))


MODULES = {
    module: describe
    for describe, names in {
        _convolution: "Conv#d ConvTranspose#d",
        _fully_connected: "Linear",
        _pooling: "MaxPool#d AvgPool#d LPPool1d LPPool2d FractionalMaxPool2d",
        _adaptive_pooling: "AdaptiveAvgPool#d AdaptiveMaxPool#d",
        _elementwise: "ReLU ReLU6 LeakyReLU ELU CELU SELU GELU SiLU Mish PReLU Sigmoid LogSigmoid "
                      "Hardsigmoid Tanh Hardtanh Hardswish Softplus Softsign Softmax LogSoftmax "
                      "LocalResponseNorm BatchNorm#d Dropout Dropout#d AlphaDropout "
                      "FeatureAlphaDropout",
        _flattening: "Flatten",
        _upsampling: "Upsample",
        _identity: "Identity Sequential",
        _embedding: "Embedding",
    }.items()
    for module in _types(names)
}  # fmt: skip


def _linear(weight, bias=None):
    return nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device="meta")


def _convolve(module):
    def make(weight, bias=None, groups=1, **options):
        channels = [weight.shape[1] * groups, weight.shape[0]]
        channels = channels[::-1] if "Transpose" in module.__name__ else channels
        return module(*channels, tuple(weight.shape[2:]), groups=groups, bias=bias is not None,
                      device="meta", **options)  # fmt: skip

    return make


def _functions(name, module, settings, make=lambda module: module):
    """Entries of `FUNCTIONS`; `#` in both names stands for 1, 2 and 3."""
    for n in "123" if "#" in name else "-":
        yield name.replace("#", n), (make(getattr(nn, module.replace("#", n))), settings)


# Function -> what makes the module that does the same, and names of what follows the input.
FUNCTIONS = dict((
    ("linear", (_linear, "weight bias")),
    *_functions("conv#d", "Conv#d", "weight bias stride padding dilation groups", _convolve),
    *_functions("conv_transpose#d", "ConvTranspose#d",
                "weight bias stride padding output_padding groups dilation", _convolve),
    *_functions("max_pool#d", "MaxPool#d", "kernel_size stride padding dilation ceil_mode"),
    *_functions("avg_pool#d", "AvgPool#d", "kernel_size stride padding ceil_mode"),
    *_functions("adaptive_avg_pool#d", "AdaptiveAvgPool#d", "output_size"),
    *_functions("adaptive_max_pool#d", "AdaptiveMaxPool#d", "output_size"),
    *((module.__name__.lower(), (module, "")) for module in _types(
        "ReLU ReLU6 SELU GELU SiLU Mish Sigmoid LogSigmoid Hardsigmoid Tanh Hardswish Softplus "
        "Softsign")),
    *_functions("leaky_relu", "LeakyReLU", "negative_slope"),
    *_functions("softmax", "Softmax", "dim"),
    *_functions("log_softmax", "LogSoftmax", "dim"),
    *_functions("dropout", "Dropout", "p"),
    *_functions("interpolate", "Upsample", "size scale_factor"),
))  # fmt: skip

# Functions that no module does: kind -> operation in the field's notation -> their names. What
# takes several paths is drawn as their join.
PLAIN = {
    name: (kind, operation)
    for kind, operations in {
        "elementwise": {
            "Add": "add", "Subtract": "sub", "Multiply": "mul", "Power": "pow", "Sqrt": "sqrt",
            "Divide": "div truediv true_divide", "Exp": "exp", "Clamp": "clamp",
            "Mask": "masked_fill", "BatchNorm": "batch_norm", "LayerNorm": "layer_norm",
            "GroupNorm": "group_norm"},
        "reshape": {
            "Flatten": "flatten", "Reshape": "view reshape squeeze unsqueeze unflatten",
            "Transpose": "transpose permute t T mT swapaxes movedim"},
        "other": {
            "Concatenation": "cat concat concatenate", "MatMul": "matmul bmm mm",
            "Slice": "getitem", "Assign": "setitem", "Split": "split chunk",
            "Attention": "scaled_dot_product_attention"},
    }.items()
    for operation, names in operations.items()
    for name in names.split()
}  # fmt: skip


def describe_function(name, args, kwargs):
    """Fields of the `Layer` that a call of a function is; `name` as Python has it: `__iadd__`."""
    in_place = name.startswith("__i") or (name.endswith("_") and not name.startswith("_"))
    name, rule = name.strip("_"), None
    if name in FUNCTIONS:
        make, names = FUNCTIONS[name]
        given = dict(zip(names.split(), args[1:], strict=False)) | kwargs
        given = {key: given[key] for key in names.split() if given.get(key) is not None}
        with contextlib.suppress(TypeError, ValueError):  # called in a way not known here
            return describe_module(make(**given))
    if name not in PLAIN and name[:1] in ("i", "r"):  # of `+=`, and of a number on the left
        name = name[1:] if name[1:] in PLAIN else name
    own_name = "".join(word.capitalize() for word in name.split("_"))
    kind, operation = PLAIN.get(name, ("other", own_name))
    x = args[0] if args else None
    if operation == "Concatenation":
        tensors, dim = kwargs.get("tensors", x), kwargs.get("dim", args[1] if args[1:] else 0)
        is_known = all(dim in (1, 1 - tensor.dim()) for tensor in tensors)
        rule = {"op": "cat"} if is_known and kwargs.keys() <= {"tensors", "dim"} else None
    elif name == "flatten":
        given = dict(zip(("start_dim", "end_dim"), args[1:], strict=False)) | kwargs
        is_whole = given.get("start_dim", 0) == 1 and given.get("end_dim", -1) in (-1, x.dim() - 1)
        rule = FLATTEN if is_whole else None
    elif name in ("view", "reshape"):
        shape = args[1] if len(args) == 2 and isinstance(args[1], (tuple, list)) else args[1:]
        rule = FLATTEN if x.dim() and tuple(shape) == (len(x), -1) else None
    elif operation in ("Add", "Subtract", "Multiply", "Divide", "Power"):
        if sum(isinstance(value, torch.Tensor) for value in (*args, *kwargs.values())) == 1:
            rule = SAME  # beside numbers
        elif operation == "Add":
            rule = {"op": "add", **({"into": 1} if in_place else {})}
    return _fields(kind, operation, rule=rule)


def _operation_and_dims(module):
    """('MaxPool', 2) of a MaxPool2d or what derives from it."""
    name = next(known.__name__ for known in type(module).__mro__ if known in MODULES)
    return name[:-2], int(name[-2])


def _window(size, dims=1):
    """A window as text: (3, 3), or 3 with two dimensions, is 3×3."""
    return "×".join(map(str, size if isinstance(size, (tuple, list)) else (size,) * dims))


def _size(size):
    """Strides and paddings as text: (2, 2) is 2, (2, 1) is 2×1, 'same' stays."""
    if isinstance(size, (tuple, list)) and len(set(size)) == 1:
        size = size[0]
    return f"{size:g}" if isinstance(size, float) else _window(size)


def _sizes(kernel, stride, padding, dilation):
    """Kernel, stride, padding and dilation, without those that change nothing."""
    sizes = {"k": _short(kernel), "s": _short(stride), "p": _short(padding), "d": _short(dilation)}
    return {key: size for key, size in sizes.items() if size != {"s": 1, "p": 0, "d": 1}.get(key)}


def _short(size):
    """(2, 2) as 2; (2, 1) and single values stay."""
    return size[0] if isinstance(size, (tuple, list)) and size[0] == size[1] else size
