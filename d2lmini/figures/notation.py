"""The field's notation for layers: a module or function as kind, operation, settings and facts.

See `structure.Layer` for what the four are. Nothing here knows a particular network.
"""

from torch import nn

__all__ = ["describe_function", "describe_module"]

# Functions worth a place in a figure: name -> (kind, operation).
FUNCTIONS = {
    "cat": ("join", "Concatenation"),
    "concat": ("join", "Concatenation"),
    "add": ("join", "Add"),
    "iadd": ("join", "Add"),
    "radd": ("join", "Add"),
    "flatten": ("reshape", "Flatten"),
    "view": ("reshape", "Reshape"),
    "reshape": ("reshape", "Reshape"),
    "relu": ("elementwise", "ReLU"),
    "sigmoid": ("elementwise", "Sigmoid"),
    "tanh": ("elementwise", "Tanh"),
    "gelu": ("elementwise", "GELU"),
    "softmax": ("elementwise", "Softmax"),
    "dropout": ("elementwise", "Dropout"),
}
CONVOLUTIONS = (
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
)
ELEMENTWISE = {
    f"torch.nn.modules.{name}"
    for name in ("activation", "dropout", "batchnorm", "instancenorm", "normalization")
}


def describe_function(name):
    """Kind and operation of a function; one without a notation of its own has its name."""
    return FUNCTIONS.get(name, ("other", name))


def describe_module(module):
    """Kind, operation, settings and facts of a leaf module, as far as it has them."""
    name, file = type(module).__name__, type(module).__module__
    if isinstance(module, CONVOLUTIONS):
        return _convolution(module)
    if isinstance(module, nn.Linear):
        return "fc", "FC", f"({module.out_features})", (("输入特征", f"{module.in_features:,}"),)
    if file == "torch.nn.modules.pooling":
        return _pooling(module, name)
    if isinstance(module, nn.Flatten):
        return "reshape", "Flatten"
    if isinstance(module, (nn.Identity, nn.Sequential)):  # one with layers inside is no leaf
        return "identity", name
    if file == "torch.nn.modules.dropout":
        return "elementwise", f"Dropout {module.p:g}"
    if file in ELEMENTWISE and not any(True for _ in module.children()):
        return "elementwise", name.removesuffix("2d")
    return "other", name


def _convolution(module):
    kernel = _window(module.kernel_size)
    stride, padding = _size(module.stride), _size(module.padding)
    extras = [
        ("stride", stride, "1"),
        ("pad", padding, "0"),
        ("dilation", _size(module.dilation), "1"),
        ("groups", str(module.groups), "1"),
    ]
    settings = [f"{name} {value}" for name, value, default in extras if value != default]
    return (
        "conv",
        f"{kernel} {'Deconv' if module.transposed else 'Conv'}",
        ", ".join([f"({module.out_channels})", *settings]),
        (("卷积核", kernel), ("步幅", stride), ("填充", padding)),
    )


def _pooling(module, name):
    operation = name.removeprefix("Adaptive").removesuffix("1d").removesuffix("2d")
    if not hasattr(module, "kernel_size"):
        size = _size(module.output_size)
        return "pool", f"{'Global' if size == '1' else 'Adaptive'} {operation}"
    dims = int(name[-2]) if name[-2].isdigit() else 1
    window = _window(module.kernel_size, dims)
    stride = _size(module.kernel_size if module.stride is None else module.stride)
    padding = _size(getattr(module, "padding", 0))
    return (
        "pool",
        f"{window} {operation}",
        f"stride {stride}" + (f", pad {padding}" if padding != "0" else ""),
        (("窗口", window), ("步幅", stride), ("填充", padding)),
    )


def _window(size, dims=1):
    """A window as text: (3, 3), or 3 with two dimensions, is 3×3."""
    return "×".join(map(str, size if isinstance(size, tuple) else (size,) * dims))


def _size(size):
    """Strides and paddings as text: (2, 2) is 2, (2, 1) is 2×1, 'same' stays."""
    return _window((size[0],) if isinstance(size, tuple) and len(set(size)) == 1 else size)
