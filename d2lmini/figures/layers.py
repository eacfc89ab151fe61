"""What is known of each type of layer: its kind, its label in the field's notation, facts, rule.

One entry for a type, in `MODULES`; a function of `torch.nn.functional` is drawn as the module that
does the same. Other types get a plain box with their name. `describe_module` and
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
import inspect
import re

import torch
from torch import nn

SAME, FLATTEN = {"op": "same"}, {"op": "flat"}
NO_BIAS = [("偏置", "无")]


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
    return _fields("other", name)


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


def _convolution(module):
    kernel, padding = module.kernel_size, 0 if module.padding == "valid" else module.padding
    settings = _settings(stride=module.stride, pad=padding, dilation=module.dilation,
                         groups=module.groups)  # fmt: skip
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
    return _fields("conv", name, settings, facts + NO_BIAS * (module.bias is None), rule)


def _fully_connected(module):
    facts = [("输入特征", f"{module.in_features:,}")] + NO_BIAS * (module.bias is None)
    rule = {"op": "fc", "i": module.in_features, "o": module.out_features}
    return _fields("fc", "FC", f"({module.out_features})", facts, rule)


def _pooling(module):
    operation, dims = _operation_and_dims(module)
    kernel, stride, padding = module.kernel_size, module.stride, module.padding
    dilation, ceil = getattr(module, "dilation", 1), {"ceil": 1} if module.ceil_mode else {}
    settings = [f"stride {_size(stride)}", *_settings(pad=padding, dilation=dilation), *ceil]
    window, rule = _window(kernel, dims), None
    facts = [("窗口", window), ("步幅", _size(stride)), ("填充", _size(padding))]
    if dims == 2:
        rule = {"op": "pool", **_sizes(kernel, stride, padding, dilation), **ceil}
    return _fields("pool", f"{window} {operation}", ", ".join(settings), facts, rule)


def _adaptive_pooling(module):
    operation, dims = _operation_and_dims(module)
    sizes = module.output_size
    sizes = sizes if isinstance(sizes, (tuple, list)) else (sizes,) * dims
    rule = {"op": "adapt", "o": _short(sizes)} if dims == 2 else None
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


MODULES = {
    getattr(nn, name): describe
    for describe, names in {
        _convolution: "Conv1d Conv2d Conv3d ConvTranspose1d ConvTranspose2d ConvTranspose3d",
        _fully_connected: "Linear",
        _pooling: "MaxPool1d MaxPool2d MaxPool3d AvgPool1d AvgPool2d AvgPool3d",
        _adaptive_pooling: "AdaptiveAvgPool1d AdaptiveAvgPool2d AdaptiveAvgPool3d "
                           "AdaptiveMaxPool1d AdaptiveMaxPool2d AdaptiveMaxPool3d",
        _elementwise: "ReLU ReLU6 LeakyReLU ELU CELU SELU GELU SiLU Mish PReLU Sigmoid LogSigmoid "
                      "Hardsigmoid Tanh Hardtanh Hardswish Softplus Softsign Softmax LogSoftmax "
                      "LocalResponseNorm BatchNorm1d BatchNorm2d BatchNorm3d Dropout Dropout1d "
                      "Dropout2d Dropout3d AlphaDropout FeatureAlphaDropout",
        _flattening: "Flatten",
        _upsampling: "Upsample",
        _identity: "Identity Sequential",
    }.items()
    for name in names.split()
}  # fmt: skip
TWINS = {module.__name__.lower(): module for module in MODULES} | {"interpolate": nn.Upsample}


def _twin(name, args, kwargs):
    """The module that does what a call of a function does, or None where none is known."""
    module = TWINS.get(name.replace("_", ""))
    names = [*inspect.signature(module).parameters] if module else []
    names = [key for key in names if key not in ("bias", "return_indices")]
    has_weight = module and MODULES[module] in (_convolution, _fully_connected)
    names = ["weight", "bias", *names[3:]] if has_weight else names
    given = {"start_dim": 0} if name == "flatten" else {}
    given |= dict(zip(names, args[1:], strict=False)) | kwargs
    given = {key: given[key] for key in names if given.get(key) is not None}
    if has_weight:
        weight, bias = given.pop("weight"), "bias" in given
        channels = [weight.shape[1] * given.get("groups", 1), weight.shape[0]]
        channels = channels[::-1] if "transpose" in name else channels
        kernel = [tuple(weight.shape[2:])] if weight.dim() > 2 else []
        return module(*channels, *kernel, **given | {"bias": bias}, device="meta")
    is_known = module and not any(isinstance(value, torch.Tensor) for value in given.values())
    return module(**given) if is_known else None


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
            "Reshape": "view reshape squeeze unsqueeze unflatten",
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
    with contextlib.suppress(KeyError, TypeError, ValueError):  # called in a way not known here
        if twin := _twin(name, args, kwargs):
            return describe_module(twin)
    if name not in PLAIN and name[:1] in ("i", "r"):  # of `+=`, and of a number on the left
        name = name[1:] if name[1:] in PLAIN else name
    own_name = "".join(word.capitalize() for word in name.split("_"))
    kind, operation = PLAIN.get(name, ("other", own_name))
    x = args[0] if args else None
    if operation == "Concatenation":
        tensors, dim = kwargs.get("tensors", x), kwargs.get("dim", args[1] if args[1:] else 0)
        is_known = all(dim in (1, 1 - tensor.dim()) for tensor in tensors)
        rule = {"op": "cat"} if is_known and kwargs.keys() <= {"tensors", "dim"} else None
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


def _settings(**sizes):
    """Those that change something, as texts: 'pad 1'."""
    texts = {name: _size(size) for name, size in sizes.items()}
    return [f"{name} {size}" for name, size in texts.items() if size != "01"[name != "pad"]]


def _sizes(kernel, stride, padding, dilation):
    """Kernel, stride, padding and dilation, without those that change nothing."""
    sizes = {"k": _short(kernel), "s": _short(stride), "p": _short(padding), "d": _short(dilation)}
    return {key: size for key, size in sizes.items() if size != {"s": 1, "p": 0, "d": 1}.get(key)}


def _short(size):
    """(2, 2) as 2; (2, 1) and single values stay."""
    return size[0] if isinstance(size, (tuple, list)) and size[0] == size[1] else size
