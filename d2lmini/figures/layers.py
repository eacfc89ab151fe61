"""What is known of each type of layer: its kind, its label in the field's notation, facts, rule.

One entry for a type: a row of `MODULES`, or of `FUNCTIONS` for one of `torch.nn.functional`, which
names the module that does the same. Other types get a plain box with their name. `describe_module`
and `describe_function` give the fields of a `structure.Layer`.

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

A pair stands where the two directions differ, one number where they are equal; 1 for a stride,
dilation or groups, and 0 for padding, are left out.
"""

import contextlib
import re

import torch
from torch import nn

__all__ = ["describe_function", "describe_module"]

SAME, FLATTEN = {"op": "same"}, {"op": "flat"}


def describe_module(module):
    """Fields of the `Layer` that a leaf module is."""
    for known in type(module).__mro__:
        if known in MODULES:
            fields = MODULES[known](module)
            break
    else:
        known, fields = None, _other(module)
    if known is not type(module):  # a subclass may do as it likes with shapes
        fields["rule"] = None
    return fields


def _fields(kind, operation, settings="", facts=(), rule=None, options=""):
    return {"kind": kind, "operation": operation, "settings": settings, "facts": tuple(facts),
            "rule": rule, "options": options}  # fmt: skip


def _other(module):
    name, file = type(module).__name__, type(module).__module__
    files = {f"torch.nn.modules.{x}" for x in ("activation", "instancenorm", "normalization")}
    is_elementwise = file in files and not any(True for _ in module.children())
    if is_elementwise:
        return _elementwise(module, None)
    return _fields("other", name, options="" if file.startswith("torch.") else "own")


def _elementwise(module, rule=SAME):
    """Of each element its own value, or of its neighbours', whatever the shape."""
    name = re.sub(r"[123]d$", "", type(module).__name__)
    if isinstance(module, nn.modules.dropout._DropoutNd):
        name = f"Dropout {module.p:g}"
    elif getattr(module, "negative_slope", 0.01) != 0.01:
        name += f" {module.negative_slope:g}"
    options = re.sub(r"(, )?inplace=\w+", "", module.extra_repr())
    return _fields("elementwise", name, rule=rule, options=options)


def _of_features(module):
    """PReLU and BatchNorm1d insist on a number of features."""
    features = getattr(module, "num_features", None) or module.num_parameters
    return _elementwise(module, SAME if features == 1 and isinstance(module, nn.PReLU)
                        else {**SAME, "n": features})  # fmt: skip


def _convolution(module):
    kernel, stride = _window(module.kernel_size), _size(module.stride)
    padding = 0 if module.padding == "valid" else module.padding
    extras = [
        ("stride", stride, "1"),
        ("pad", _size(padding), "0"),
        ("dilation", _size(module.dilation), "1"),
        ("groups", str(module.groups), "1"),
    ]
    settings = [f"{name} {value}" for name, value, default in extras if value != default]
    facts = [("卷积核", kernel), ("步幅", stride), ("填充", _size(padding))]
    rule = None
    if module.padding_mode != "zeros":
        settings.append(module.padding_mode)
    elif isinstance(module, nn.Conv2d):
        groups = {"g": module.groups} if module.groups != 1 else {}
        sizes = _sizes(module.kernel_size, module.stride, padding, module.dilation)
        rule = {"op": "conv", **sizes, **groups, "o": module.out_channels}
    if module.bias is None:
        facts.append(("偏置", "无"))
    name = f"{kernel} {'Deconv' if module.transposed else 'Conv'}"
    return _fields("conv", name, ", ".join([f"({module.out_channels})", *settings]), facts, rule)


def _fully_connected(module):
    facts = [("输入特征", f"{module.in_features:,}")]
    if module.bias is None:
        facts.append(("偏置", "无"))
    rule = {"op": "fc", "i": module.in_features, "o": module.out_features}
    return _fields("fc", "FC", f"({module.out_features})", facts, rule)


def _pooling(module):
    operation, dims = re.fullmatch(r"(\w+?)([123])d", _torch_name(module)).groups()
    window = _window(module.kernel_size, int(dims))
    stride = _size(getattr(module, "stride", None) or module.kernel_size)
    padding = getattr(module, "padding", 0)
    settings = [f"stride {stride}"] + [f"pad {_size(padding)}"] * (_size(padding) != "0")
    facts = [("窗口", window), ("步幅", stride), ("填充", _size(padding))]
    ceil, dilation = getattr(module, "ceil_mode", False), getattr(module, "dilation", 1)
    if _size(dilation) != "1":
        settings.append(f"dilation {_size(dilation)}")
    if ceil:
        settings.append("ceil")
    rule = None
    is_known = isinstance(module, (nn.MaxPool2d, nn.AvgPool2d))
    if is_known and not getattr(module, "return_indices", False):
        sizes = _sizes(module.kernel_size, module.stride, padding, dilation)
        rule = {"op": "pool", **sizes, **({"ceil": 1} if ceil else {})}
    return _fields("pool", f"{window} {operation}", ", ".join(settings), facts, rule)


def _adaptive_pooling(module):
    operation, dims = re.fullmatch(r"Adaptive(\w+?)([123])d", _torch_name(module)).groups()
    sizes = module.output_size
    sizes = sizes if isinstance(sizes, (tuple, list)) else (sizes,) * int(dims)
    rule = {"op": "adapt", "o": _short(sizes)}
    if dims != "2" or getattr(module, "return_indices", False):
        rule = None
    if set(sizes) == {1}:
        return _fields("pool", f"Global {operation}", rule=rule)
    names = [size or name for name, size in zip("DHW"[-len(sizes) :], sizes, strict=True)]
    return _fields("pool", f"Adaptive {operation}", f"output {_window(names)}", rule=rule)


def _upsampling(module):
    times = module.scale_factor
    size = f"output {_size(module.size)}" if times is None else f"(×{_size(times)})"
    return _fields("other", "Upsample", size)


def _flattening(module):
    is_whole = (module.start_dim, module.end_dim) == (1, -1)
    return _fields("reshape", "Flatten", rule=FLATTEN if is_whole else None)


MODULES = {
    **dict.fromkeys(
        (nn.Conv1d, nn.Conv2d, nn.Conv3d,
         nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d), _convolution),
    nn.Linear: _fully_connected,
    **dict.fromkeys(
        (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d,
         nn.LPPool1d, nn.LPPool2d, nn.FractionalMaxPool2d), _pooling),
    **dict.fromkeys(
        (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d,
         nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d), _adaptive_pooling),
    **dict.fromkeys(
        (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.CELU, nn.SELU, nn.GELU, nn.SiLU, nn.Mish,
         nn.Sigmoid, nn.LogSigmoid, nn.Hardsigmoid, nn.Tanh, nn.Hardtanh, nn.Hardswish,
         nn.Softplus, nn.Softsign, nn.Softmax, nn.LogSoftmax, nn.LocalResponseNorm, nn.BatchNorm2d,
         nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.AlphaDropout, nn.FeatureAlphaDropout),
        _elementwise),
    **dict.fromkeys((nn.Dropout3d, nn.BatchNorm3d, nn.SyncBatchNorm),
                    lambda module: _elementwise(module, None)),
    nn.BatchNorm1d: _of_features,
    nn.PReLU: _of_features,
    nn.Flatten: _flattening,
    nn.Unflatten: lambda module: _fields("reshape", "Reshape"),
    nn.Upsample: _upsampling,
    nn.Embedding: lambda module: _fields("other", "Embedding", f"({module.embedding_dim})"),
    # a leaf only where it is empty
    nn.Sequential: lambda module: _fields("identity", type(module).__name__, rule=SAME),
    nn.Identity: lambda module: _fields("identity", type(module).__name__, rule=SAME),
}  # fmt: skip


def _linear(weight, bias=None):
    return nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device="meta")


def _convolve(module):
    def make(weight, bias=None, groups=1, **options):
        out, channels = weight.shape[0], weight.shape[1] * groups
        if "Transpose" in module.__name__:
            out, channels = weight.shape[1] * groups, weight.shape[0]
        return module(channels, out, tuple(weight.shape[2:]), groups=groups, device="meta",
                      bias=bias is not None, **options)  # fmt: skip

    return make


# Function -> what makes the module that does the same, and names of what follows the input.
FUNCTIONS = {
    "linear": (_linear, "weight bias"),
    **{f"conv{n}d": (_convolve(getattr(nn, f"Conv{n}d")),
                     "weight bias stride padding dilation groups") for n in (1, 2, 3)},
    **{f"conv_transpose{n}d": (_convolve(getattr(nn, f"ConvTranspose{n}d")),
                               "weight bias stride padding output_padding groups dilation")
       for n in (1, 2, 3)},
    **{f"max_pool{n}d": (getattr(nn, f"MaxPool{n}d"),
                         "kernel_size stride padding dilation ceil_mode") for n in (1, 2, 3)},
    **{f"avg_pool{n}d": (getattr(nn, f"AvgPool{n}d"), "kernel_size stride padding ceil_mode")
       for n in (1, 2, 3)},
    **{f"adaptive_{kind.lower()}_pool{n}d": (getattr(nn, f"Adaptive{kind}Pool{n}d"), "output_size")
       for n in (1, 2, 3) for kind in ("Avg", "Max")},
    **{module.__name__.lower(): (module, "") for module in (
        nn.ReLU, nn.ReLU6, nn.SELU, nn.SiLU, nn.Mish, nn.Sigmoid, nn.LogSigmoid, nn.Hardsigmoid,
        nn.Tanh, nn.Hardswish, nn.Softsign)},
    "leaky_relu": (nn.LeakyReLU, "negative_slope"),
    "elu": (nn.ELU, "alpha"),
    "gelu": (nn.GELU, ""),
    "softplus": (nn.Softplus, ""),
    "softmax": (nn.Softmax, "dim"),
    "log_softmax": (nn.LogSoftmax, "dim"),
    **{name: (nn.Dropout, "p") for name in ("dropout", "dropout1d", "dropout2d", "alpha_dropout")},
    "interpolate": (nn.Upsample, "size scale_factor"),
}  # fmt: skip

# Functions that no module does: kind -> operation in the field's notation -> their names. What
# takes several paths is drawn as their join.
PLAIN = {
    name: (kind, operation)
    for kind, operations in {
        "elementwise": {
            "Add": "add", "Subtract": "sub", "Multiply": "mul", "Power": "pow", "Exp": "exp",
            "Divide": "div truediv true_divide", "Sqrt": "sqrt", "Clamp": "clamp",
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
    name = name.strip("_")
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
    rule, values = None, [*args, *kwargs.values()]
    if operation == "Concatenation":
        rule = _rule_of_cat(args, kwargs)
    elif kind == "reshape":
        rule = _rule_of_reshape(name, args, kwargs)
    elif operation in ("Add", "Subtract", "Multiply", "Divide", "Power"):
        if sum(isinstance(value, torch.Tensor) for value in values) == 1:  # beside numbers
            rule = SAME
        elif operation == "Add":
            rule = {"op": "add", **({"into": 1} if in_place else {})}
    return _fields(kind, operation, rule=rule)


def _rule_of_reshape(name, args, kwargs):
    x = args[0]
    if name == "flatten":
        given = dict(zip(("start_dim", "end_dim"), args[1:], strict=False)) | kwargs
        start, end = given.get("start_dim", 0), given.get("end_dim", -1)
        return FLATTEN if start == 1 and end in (-1, x.dim() - 1) else None
    if name in ("view", "reshape"):
        shape = args[1] if len(args) == 2 and isinstance(args[1], (tuple, list)) else args[1:]
        return FLATTEN if x.dim() and tuple(shape) == (len(x), -1) else None
    return None


def _rule_of_cat(args, kwargs):
    tensors = kwargs.get("tensors", args[0] if args else None)
    dim = kwargs.get("dim", args[1] if len(args) > 1 else 0)
    same_axis = all(dim in (1, 1 - tensor.dim()) for tensor in tensors)
    return {"op": "cat"} if same_axis and kwargs.keys() <= {"tensors", "dim"} else None


def _torch_name(module):
    """The name of torch's own class that a module is of, or derives from."""
    return next(known.__name__ for known in type(module).__mro__ if known in MODULES)


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
    values = {"k": (kernel, None), "s": (stride, 1), "p": (padding, 0), "d": (dilation, 1)}
    return {
        key: _short(value) for key, (value, nothing) in values.items() if _short(value) != nothing
    }


def _short(size):
    """(2, 2) as 2; (2, 1) and single values stay."""
    return size[0] if isinstance(size, (tuple, list)) and size[0] == size[1] else size
