"""Torch's errors about memory, shapes and number formats, in a sentence with what to do."""

import contextlib
import dis
import functools
import operator
import re
from pathlib import Path

import torch
from torch import nn

from d2lmini.network import uncompiled

__all__ = [
    "ONE_IMAGE",
    "BadInput",
    "Explained",
    "OutOfMemory",
    "explained",
    "whole_number",
]

# What torch says of GPUs; of the CPU, on Windows too; of cuBLAS and cuDNN, also while autotuning.
OUT_OF_MEMORY = (
    "out of memory|allocate memory|not enough memory|ALLOC_FAILED|unable to find an engine"
)
# Of networks whose layers are functions, where no module can be asked what it takes.
WRONG_SHAPE = "shapes cannot be multiplied|Kernel size can't be|Output size is too small"
WRONG_DTYPE = (
    "should be the same|expected scalar type|have the same dtype|not implemented for|same dtype"
)
NOT_OF_IMAGES = r"CUDA|numpy\(\)|NoneType|argument|unsupported operand"
TORCH = Path(torch.__file__).parent
ONE_IMAGE = "Expected more than 1 value per channel"  # torch's words for it
RESIZE = (
    "A network with fully connected layers fits one image size only; see the argument resize of "
    "load_data_fashion_mnist"
)


class Explained(Exception):
    """An error whose message says what was given, what is needed and what to do."""


class BadInput(Explained, ValueError):
    """A network or data that do not fit."""


class OutOfMemory(Explained, RuntimeError):
    """The device has too little memory."""


def whole_number(name, value, low=1, wanted="a positive int"):
    """`value` as an int, whatever whole number it is; ValueError says what argument `name` is."""
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    is_bool = isinstance(value, bool) or str(getattr(value, "dtype", "")).endswith("bool")
    if number is None or is_bool or number < low:
        raise ValueError(f"{name} must be {wanted}, got {value!r}")
    return number


@contextlib.contextmanager
def explained(given, batch_size=None, net=None, X=None):
    """Torch's errors about memory and, of what `net` is given, about shapes and number formats.

    `given` says what was given, as "a batch of shape (4, 1, 28, 28)"; `X` is that on the device of
    `net`, which is asked which of its layers does not take it. Errors that the reader's own code
    raises keep their words.
    """
    try:
        yield
    except Explained:
        raise
    except Exception as error:
        text = str(error)
        if isinstance(error, RuntimeError) and re.search(OUT_OF_MEMORY, text):
            smaller = f"batches of {batch_size // 2}" if batch_size and batch_size > 1 else "less"
            raise OutOfMemory(
                f"out of memory with {given}: try {smaller} or a smaller resize in "
                f"load_data_fashion_mnist; if it stays so, restart the kernel ({error})"
            ) from error
        if net is None or not _is_torchs_own(error):
            raise
        if "view size is not compatible" in text:
            raise BadInput(
                "the network calls .view() on feature maps whose layout in memory is channels "
                "last: put nn.Flatten() or .reshape() in its place, or train with "
                f"precision='fp32' ({error})"
            ) from error
        why = _misfit(net, X)
        if why is None:
            why = text
            if re.search(WRONG_SHAPE, text):
                why = f"{text}. {RESIZE}"
            elif re.search(WRONG_DTYPE, text):
                why = (
                    f"{text}; numbers of two formats meet, of which X.float() and net.float() "
                    "make one"
                )
        raise BadInput(f"the network does not take {given}: {why}") from error


def _is_torchs_own(error):
    """Whether torch says with an error that it does not take what it is given.

    Mistakes in the reader's own code, and what that raises itself, are another matter.
    """
    text, last = str(error), error.__traceback__
    while last.tb_next is not None:
        last = last.tb_next
    code = last.tb_frame.f_code
    in_torch = TORCH in Path(code.co_filename).parents
    if isinstance(error, NotImplementedError) or re.search(NOT_OF_IMAGES, text):
        return False
    if isinstance(error, RuntimeError):  # from C++, of which nothing is seen but the call
        return in_torch or code.co_code[last.tb_lasti] != dis.opmap["RAISE_VARARGS"]
    if isinstance(error, IndexError):
        return "in self" in text  # of an embedding
    return in_torch and isinstance(error, (ValueError, TypeError, AssertionError))


class _MisfitFound(Exception):
    """Ends a run at the first layer that does not take its input."""


def _misfit(net, X):
    """What the first layer that does not take its input says of it, or None."""

    def look(name, module, inputs):
        if inputs and isinstance(inputs[0], torch.Tensor):
            why = _why_not(module, inputs[0])
            if why:
                label = f"layer {name}, {type(module).__name__}," if name else type(module).__name__
                raise _MisfitFound(f"{label} {why}")

    handles = []
    try:
        for name, module in uncompiled(net).named_modules():
            handles.append(module.register_forward_pre_hook(functools.partial(look, name)))
        with torch.no_grad():
            uncompiled(net)(X)
    except _MisfitFound as found:
        return str(found)
    except Exception:  # of another kind
        pass
    finally:
        for handle in handles:
            handle.remove()
    return None


def _why_not(module, X):
    """Why a module of torch's does not take X; None where nothing is known against it."""
    if not type(module).forward.__module__.startswith("torch.nn."):
        return None  # a class of the reader's, which may do what it likes
    shape = tuple(X.shape)
    weight = getattr(module, "weight", None)
    if weight is not None and not (
        X.is_floating_point() or isinstance(module, (nn.Embedding, nn.EmbeddingBag))
    ):
        return f"takes numbers like 0.5, got {X.dtype}: X.float() / 255 makes them of bytes"
    if isinstance(module, nn.Linear) and X.dim() and shape[-1] != module.in_features:
        if X.dim() > 2:
            return (
                f"takes {module.in_features} features an image, got maps of shape {shape}: "
                "put nn.Flatten() before it"
            )
        return f"takes {module.in_features} features an image, got {shape[-1]}. {RESIZE}"
    if isinstance(module, nn.modules.conv._ConvNd):
        why = _why_not_channels(module, shape)
        return why if why or module.transposed else _why_not_window(module, shape)
    if isinstance(module, (nn.modules.pooling._MaxPoolNd, nn.modules.pooling._AvgPoolNd)):
        return _why_not_window(module, shape)
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        return _why_not_normalised(module, X)
    return None


def _why_not_normalised(norm, X):
    """Why batch normalisation does not take X, or None."""
    shape = tuple(X.shape)
    axes = next((n for n in (1, 2, 3) if f"{n}d" in type(norm).__name__), None)
    if axes and len(shape) != axes + 2 and (axes, len(shape)) != (1, 2):
        advice = "put nn.Flatten() before it, or take" if axes == 1 else "take"
        return (
            f"takes {'vectors' if axes == 1 else f'maps with {axes} axes'}, got {shape}: {advice} "
            f"the batch normalisation of that many axes"
        )
    if len(shape) > 1 and shape[1] != norm.num_features:
        return f"takes {norm.num_features} channels, got {shape[1]}"
    if norm.training and X.numel() == shape[1]:
        return (
            "normalises over the batch, which takes more than one image; choose a batch size "
            "that leaves no single image over, or drop_last=True in the DataLoader"
        )
    return None


def _why_not_channels(conv, shape):
    """Why a convolution does not take the channels of an input of this shape, or None."""
    wanted, axes = conv.in_channels, ", ".join("DHW"[-len(conv.kernel_size) :])
    if len(shape) == len(conv.kernel_size) + 2 and shape[1] == wanted:
        return None
    text = f"takes (B, {wanted}, {axes}), images with {wanted} channel{'s' * (wanted != 1)}, "
    if len(shape) != len(conv.kernel_size) + 2:
        one_less = len(shape) == len(conv.kernel_size) + 1
        advice = ": without an axis for the channels; X.unsqueeze(1) adds one" if one_less else ""
        return f"{text}got {shape}{advice}"
    text += f"got {shape}, with {shape[1]}: "
    if shape[-1] == wanted:
        return f"{text}the channels stand last; X.permute(0, 3, 1, 2) puts them second"
    if (wanted, shape[1]) == (1, 3):
        return f"{text}make them grey, torchvision.transforms.Grayscale(), or give the network 3"
    if (wanted, shape[1]) == (3, 1):
        return (
            f"{text}give the first layer in_channels=1, or repeat the channel, "
            "X.expand(-1, 3, -1, -1)"
        )
    return f"{text}give the layer in_channels={shape[1]}"


def _why_not_window(module, shape):
    """Why the window of a convolution or pooling does not fit into maps of this shape, or None."""

    def per_axis(value):
        return value if isinstance(value, tuple) else (value,) * num_axes

    num_axes = len(shape) - 2
    padding = getattr(module, "padding", 0)
    if num_axes < 1 or isinstance(padding, str) or getattr(module, "ceil_mode", False):
        return None
    dilations = per_axis(getattr(module, "dilation", 1))
    windows = [
        d * (k - 1) + 1 for k, d in zip(per_axis(module.kernel_size), dilations, strict=True)
    ]
    sizes = [side + 2 * p for side, p in zip(shape[2:], per_axis(padding), strict=True)]
    if all(window <= size for window, size in zip(windows, sizes, strict=True)):
        return None
    text = "×".join(map(str, windows)), "×".join(map(str, shape[2:]))
    return (
        f"has a window of {text[0]}, larger than the {text[1]} that arrive: the images are too "
        "small; see the argument resize of load_data_fashion_mnist"
    )
