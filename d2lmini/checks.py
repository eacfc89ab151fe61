"""What is refused before anything is changed, and what is explained afterwards, once."""

import contextlib
import copy
import math
import numbers
import random
import re
import sys
import traceback
import types
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import IterableDataset

from d2lmini.data import ImageIterator
from d2lmini.device import rng_state, whole_number
from d2lmini.network import dtype_of, evaluation_mode, images_are_independent, is_lazy, lay_out

IMAGES_AT_ONCE = 64  # through a network on a CPU: a larger batch in parts takes less memory
USED_UP = (types.GeneratorType, map, zip, enumerate, type(iter([])))  # by going over them once
OUT_OF_MEMORY = "out of memory|allocate memory|not enough memory|ALLOC_FAILED"


def check_arguments(net, num_epochs, lr, seed):
    """Return `num_epochs` and `seed` as plain ints."""
    if not isinstance(net, nn.Module):
        raise TypeError(f"net must be an nn.Module, got {net!r:.200}")
    if not isinstance(lr, numbers.Real) or not 0 < lr <= torch.finfo(torch.float32).max:
        raise ValueError(f"lr must be a positive number, got {lr!r}")
    if not any(p.requires_grad for p in net.parameters()) or not torch.is_grad_enabled():
        raise ValueError("net has no parameter to train, or gradients are switched off around it")
    seed = None if seed is None else whole_number("seed", seed, -(2**63), "a 64-bit whole number")
    return whole_number("num_epochs", num_epochs), seed


def as_tensors(batch, name, number):
    """Images and labels of a batch of `name`, its `number` from 1, the labels int64 (B,)."""
    try:
        X, y = batch
        X, y = torch.as_tensor(X), torch.as_tensor(y)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{name} must yield pairs (X, y) of tensors, images and labels, got a "
                         f"{type(batch).__name__} ({error})") from error  # fmt: skip
    is_whole = not y.is_complex() and (not y.is_floating_point() or bool((y == y.round()).all()))
    if y.dim() != 1 or X.shape[:1] != y.shape or not len(y) or not is_whole:
        raise ValueError(f"{name} must yield batches of B images and B labels, whole numbers of "
                         f"shape (B,), B at least 1, as a DataLoader does; got {tuple(X.shape)} "
                         f"and {tuple(y.shape)} of {y.dtype}")  # fmt: skip
    # Reading waits for a GPU. The sum is finite if all are, and quicker than looking at each.
    can_read = X.device.type == "cpu" and X.is_floating_point()
    if can_read and not math.isfinite(X.sum()) and not X.isfinite().all():
        raise ValueError(f"batch {number} of {name} holds images that are not finite (NaN or "
                         "infinite): look at their files, and at what prepares them")  # fmt: skip
    return X, y.long()


def check_scores(scores, X, labels, name):
    """Refuse what is no tensor of scores (B, num_classes) of X, or has none for a label."""
    shape = tuple(getattr(scores, "shape", ()))
    if len(shape) == 1 and not scores.is_floating_point():  # labels already
        return
    if len(shape) != 2 or shape[0] != len(X):
        advice = "; does it lack nn.Flatten()?" if shape[:1] == X.shape[:1] else ""
        raise ValueError(f"the network must return a tensor of scores, ({len(X)}, num_classes), "
                         f"got a {type(scores).__name__} {shape}{advice}")  # fmt: skip
    if labels.device.type == "cpu" and (labels.min() < 0 or labels.max() >= shape[1]):
        low, high = labels.min(), labels.max()
        advice = f"it needs {high + 1} outputs" if low == 0 else "number the classes from 0"
        raise ValueError(f"{name} has labels from {low} to {high}, but the network has {shape[1]} "
                         f"scores, for labels 0 to {shape[1] - 1}: {advice}")  # fmt: skip


def check_first_batches(net, train_iter, test_iter, num_epochs, precision):
    """Refuse iterators, first batches and a network that do not fit, and change nothing.

    The network is tried in evaluation mode, in which nothing is drawn and no statistics move; what
    only training does is told in its first step. `precision` gets the layout that fits. Returns
    images of train_iter or None, the network, a copy with sizes where it is lazy, and hints.
    """
    home, sized = next(net.parameters()).device, net
    with _random_states_kept(precision.device, train_iter, test_iter), torch.no_grad():
        X, y = _first_batch(train_iter, "train_iter", num_epochs)
        test_X, test_y = _first_batch(test_iter, "test_iter", num_epochs)
        if is_lazy(net):
            if X is None:
                raise ValueError("lazy layers need a first batch, which train_iter gives once "
                                 "only: call net(X) on one before training")  # fmt: skip
            waiting = filter(nn.parameter.is_lazy, net.buffers())  # which torch cannot copy
            memo = {id(b): nn.parameter.UninitializedBuffer(dtype=b.dtype) for b in waiting}
            sized = copy.deepcopy(net, memo)
        try:
            with evaluation_mode(sized.to(precision.device)):
                hints = _try(sized, X, y, "train_iter", precision)
                if is_lazy(sized):
                    raise ValueError("a lazy layer is not used by forward: take it out")
                hints |= _try(sized, test_X, test_y, "test_iter", precision)
                may_part = (precision.device.type, precision.layout) == ("cpu", torch.channels_last)
                is_large = X is not None and len(X) > IMAGES_AT_ONCE
                if may_part and is_large and images_are_independent(sized, X):
                    precision.images_at_once = IMAGES_AT_ONCE
        finally:
            sized.to(home)
            lay_out(sized, torch.contiguous_format)
    if X is not None and test_X is not None and (X.min() < 0) != (test_X.min() < 0):
        hints["map"] = "note: of train_iter and test_iter only one is normalised: change both alike"
    if y is not None and len(y) > 15 and (y == y[0]).all():
        hints["order"] = "note: the first batch of train_iter has one class only: shuffle the data"
    return X, sized, hints


def _first_batch(data_iter, name, num_epochs):
    """Images of a first batch and the labels known by then; two None if batches come only once."""
    if isinstance(data_iter, USED_UP) and num_epochs > 1:
        raise ValueError(f"{name} is a {type(data_iter).__name__}, which yields its batches once "
                         "only; give a list of batches or a DataLoader")  # fmt: skip
    batches = iter(data_iter)
    if batches is data_iter or isinstance(getattr(data_iter, "dataset", None), IterableDataset):
        return None, None
    for batch in batches:
        X, y = as_tensors(batch, name, number=1)
        return X, data_iter.labels if isinstance(data_iter, ImageIterator) else y
    raise ValueError(f"{name} yields no batch: there is nothing to work on")


def _try(net, X, labels, name, precision):
    """Refuse what `net` makes of images X; `precision` gets the layout that it takes; hints."""
    hints = {}  # no word twice
    if X is None:
        return hints
    X = X.to(precision.device, dtype_of(net) if X.is_floating_point() else None)
    try:
        if is_lazy(net):
            net(X)  # layers find their sizes
        lay_out(net, precision.layout)
        with torch.autocast(precision.device.type, enabled=False), precision.autocast():
            random_state, scores = rng_state(precision.device), net(X)
    except Exception as error:
        is_readers = isinstance(error, RuntimeError) and _layer_in(error) is None
        if is_readers and precision.layout != torch.contiguous_format:
            precision.layout = torch.contiguous_format  # for .view() of maps, say
            return _try(net, X, labels, name, precision)
        raise_explained(error, name, net, X)
    check_scores(scores, X, labels.cpu(), name)
    if not scores.isfinite().all():
        raise ValueError("the network's scores are not finite before the first step: its weights "
                         "are not, or the images are too large")  # fmt: skip
    if X.is_floating_point() and X.abs().max() > 30:
        hints["range"] = (f"note: images go up to {X.max().item():g}; the book's learning rates "
                          "are for 0 to 1: divide by 255, as ToTensor() does")  # fmt: skip
    if not torch.equal(random_state, rng_state(precision.device)):
        hints["random"] = "note: evaluation draws random numbers: F.dropout needs self.training"
    are_scores = scores.dim() == 2 and scores.shape[1] > 1 and scores.min() >= 0
    if are_scores and (scores.float().sum(1) - 1).abs().max() < 1e-3:
        hints["softmax"] = ("note: the network's outputs are probabilities already (softmax); the "
                            "loss applies softmax itself, and learns slowly from such: leave the "
                            "last layer out")  # fmt: skip
    return hints


@contextlib.contextmanager
def _random_states_kept(device, *iterators):
    owners = [*iterators, *(getattr(data_iter, "sampler", None) for data_iter in iterators)]
    numpy_random = sys.modules["numpy"].random  # matplotlib has imported it
    with contextlib.ExitStack() as stack:
        for generator in [getattr(owner, "generator", None) for owner in owners]:
            if isinstance(generator, torch.Generator):
                stack.callback(generator.set_state, generator.get_state())
        stack.callback(numpy_random.set_state, numpy_random.get_state())
        stack.callback(random.setstate, random.getstate())
        stack.enter_context(torch.random.fork_rng([device] if device.type == "cuda" else []))
        yield


def raise_explained(error, name, net, X, size=0):
    """Raise `error` again, or what explains it: an error of memory, or of a layer of torch's.

    X is the batch of `name` that was given, or None; `size`, how many images went at once.
    """
    given = "the data set" if X is None else f"a batch of shape {tuple(X.shape)}"
    size, found = size or (0 if X is None else len(X)), _layer_in(error)
    if isinstance(error, RuntimeError) and re.search(OUT_OF_MEMORY, str(error)):
        smaller = f"batches of {size // 2}" if size > 1 else "less"
        raise RuntimeError(f"out of memory with {given}: try {smaller} or a smaller resize in "
                           f"load_data_fashion_mnist; if it stays so, restart the kernel ({error})"
                           ) from error  # fmt: skip
    if found is None or X is None:
        raise error
    layer, taken = found
    place = next((n for n, module in net.named_modules() if module is layer), "")
    raise ValueError(f"the network does not take {given} of {name}: layer {place}, "
                     f"{type(layer).__name__}({layer.extra_repr()}), got {tuple(taken.shape)}"
                     f"{_advice(layer, taken, X)} ({error!s:.300})") from error  # fmt: skip


def _layer_in(error):
    """The torch.nn module that raised and the tensor it was given; None for a reader's code."""
    for frame, _ in reversed(list(traceback.walk_tb(error.__traceback__))):
        if Path(torch.__file__).parent not in Path(frame.f_code.co_filename).parents:
            return None
        layer, values = frame.f_locals.get("self"), frame.f_locals.values()
        if frame.f_code.co_name == "forward" and isinstance(layer, nn.Module):
            return next(((layer, v) for v in values if isinstance(v, torch.Tensor)), None)
    return None


def _advice(layer, X, images):
    """What to do about a layer that does not take X, where that is sure to fit; else ''."""
    features, channels = getattr(layer, "in_features", None), getattr(layer, "in_channels", None)
    if features and math.prod(X.shape[1:]) == features:
        return ": put nn.Flatten() before it"
    if channels and X.shape == images.shape and X.shape[1] != channels:
        return (f": it takes images (B, {channels}, H, W); give it other in_channels, or change "
                "the images with Grayscale(), expand, permute or unsqueeze")  # fmt: skip
    if isinstance(layer, nn.modules.batchnorm._BatchNorm) and X.numel() == layer.num_features:
        return (": it needs more than one image; choose a batch size that leaves no single one "
                "over, or drop_last=True in the DataLoader")  # fmt: skip
    return ""
