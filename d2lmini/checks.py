"""What is refused and what is explained.

`train_ch6` looks at its arguments and at a first batch of both iterators once, before anything is
changed: what it refuses then has left weights, modes, random numbers and files as they were. A rule
is a row: a condition, and a sentence that says what was given and what is needed. What fails later
is explained once, from the traceback: memory, and layers that do not take their input.
"""

import contextlib
import copy
import math
import numbers
import os
import random
import re
import sys
import tempfile
import types
from pathlib import Path

import torch
from torch import nn
from torch.nn.parameter import UninitializedBuffer
from torch.utils.data import DataLoader, IterableDataset

from d2lmini.data import ImageIterator
from d2lmini.device import IMAGES_AT_ONCE, lay_out, try_gpu, whole_number
from d2lmini.network import dtype_of, evaluation_mode, images_are_independent, is_lazy, uncompiled

__all__ = ["BadInput", "OutOfMemory", "as_tensors", "check_arguments",
           "check_first_batches", "check_images", "check_labels", "check_scores", "raise_explained",
           "refuse"]  # fmt: skip

# What can be gone over once; an object of a reader's own may start anew each time.
ONCE_ONLY = (types.GeneratorType, map, zip, filter, enumerate, type(iter([])))
OUT_OF_MEMORY = "out of memory|allocate memory|not enough memory|ALLOC_FAILED"
TORCH = Path(torch.__file__).parent


class BadInput(ValueError):
    """A network or data that do not fit: what was given, what is needed and what to do."""


class OutOfMemory(RuntimeError):
    """The device has too little memory."""


def refuse(*rows):
    """Raise the sentence of the first row, (condition, sentence), whose condition holds."""
    for is_wrong, sentence in rows:
        if is_wrong:
            raise BadInput(sentence)


def check_arguments(net, num_epochs, lr, device, seed, checkpoint):
    """Return `num_epochs`, `device` and `seed` as torch takes them."""
    if not isinstance(net, nn.Module):
        raise TypeError(f"net must be an nn.Module, got {net!r:.200}")
    num_epochs, wanted = whole_number("num_epochs", num_epochs), "a whole number of at most 64 bits"
    seed = None if seed is None else whole_number("seed", seed, -(2**63), wanted)
    try:
        device = torch.device(device) if device is not None else try_gpu()
    except (RuntimeError, TypeError) as error:
        raise BadInput(f"device must be such as 'cpu' or 'cuda:0', got {device!r}") from error
    lr_fits = isinstance(lr, numbers.Real) and 0 < lr <= torch.finfo(torch.float32).max
    is_path = checkpoint is None or isinstance(checkpoint, (str, os.PathLike))
    is_absent = device.type == "cuda" and not torch.cuda.is_available()
    refuse(
        (not lr_fits, f"lr must be a positive number, got {lr!r}"),
        (seed is not None and seed >= 2**63, f"seed must be {wanted}, got {seed}"),
        (is_absent, f"device is {str(device)!r}, but torch finds no CUDA GPU here; leave it out"),
        (not any(p.requires_grad for p in net.parameters()), "net has no parameter to train"),
        (not torch.is_grad_enabled(), "gradients are switched off around train_ch6"),
        (not is_path, f"checkpoint={checkpoint!r} cannot be written: it is no path"),
    )
    if checkpoint is not None:  # found out now, not after an epoch; nothing is left of the attempt
        try:
            path = Path(checkpoint).absolute()
            if path.is_dir():
                raise IsADirectoryError("it is a folder")
            with tempfile.TemporaryFile(dir=next(p for p in path.parents if p.exists())):
                pass
        except OSError as error:
            given = f"checkpoint={str(checkpoint)!r}"
            raise BadInput(f"{given} cannot be written ({error}); name another file") from error
    return num_epochs, device, seed


def as_tensors(batch, name):
    """Images and labels of a batch of `name`, as tensors, the labels int64 (B,)."""
    if not isinstance(batch, (tuple, list, dict, str, torch.Tensor)):
        with contextlib.suppress(TypeError):  # whatever can be taken apart
            batch = tuple(batch)
    try:
        if not isinstance(batch, (tuple, list)) or len(batch) != 2:
            raise TypeError("yield only these two")
        X, y = torch.as_tensor(batch[0]), torch.as_tensor(batch[1])
    except (TypeError, ValueError, RuntimeError) as error:
        wanted = f"{name} must yield pairs (X, y) of tensors, images and labels"
        raise BadInput(f"{wanted}, got {_described(batch)} ({error})") from error
    if X.dim() and not y.dim():
        raise BadInput(f"{name} yields images one by one: give DataLoader(data_set, batch_size)")
    num_images, num_labels = len(X) if X.dim() else 0, len(y) if y.dim() else 0
    if not num_images or num_images != num_labels:
        raise BadInput(f"a batch of {name} needs at least one image, and a label for each; got "
                       f"{num_images} images and {num_labels} labels")  # fmt: skip
    if y.dim() != 1 or y.is_complex() or (y.is_floating_point() and (y != y.round()).any()):
        raise BadInput("labels must be whole numbers of shape (B,), the number of each image's "
                       f"class; {name} has {y.dtype} of shape {tuple(y.shape)}")  # fmt: skip
    return X, y.long()


def _described(value):
    """What a value is, in a few words."""
    if isinstance(value, torch.Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    if not isinstance(value, (tuple, list)):
        return f"a {type(value).__name__}"
    return f"a {type(value).__name__} of {len(value)}: {', '.join(map(_described, value[:4]))}"


def check_images(X, name, number):
    """Refuse images that are not finite; `number` is the batch's, from 1."""
    # The sum is finite if all are, and far quicker than looking at each.
    if X.is_floating_point() and not math.isfinite(X.sum()) and not X.isfinite().all():
        raise BadInput(f"batch {number} of {name} holds images that are not finite (NaN or "
                       "infinite): look at the files they come from, and for a division by 0 in "
                       "what prepares them")  # fmt: skip


def check_labels(labels, num_classes, name):
    """Refuse labels for which the network has no score."""
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= num_classes:
        from_one = low == 1 and high == num_classes
        advice = "number the classes from 0" if from_one else f"it needs {high + 1} outputs"
        raise BadInput(f"{name} has labels from {low} to {high}, but the network has {num_classes} "
                       f"scores, for labels 0 to {num_classes - 1}: "
                       f"{'labels start at 0' if low < 0 else advice}")  # fmt: skip


def check_scores(scores, num_images):
    """Refuse an output of the network that is no tensor of scores (num_images, num_classes)."""
    shape = getattr(scores, "shape", None)
    if not isinstance(scores, torch.Tensor) or len(shape) != 2 or len(scores) != num_images:
        advice = "leave the others out (torchvision: aux_logits=False)"
        if isinstance(scores, torch.Tensor):
            advice = "does it lack nn.Flatten()?" if shape[:1] == (num_images,) else "see forward"
        raise BadInput(f"the network must return one tensor of scores, ({num_images}, num_classes) "
                       f"for {num_images} images, got {_described(scores)}; {advice}")  # fmt: skip


def check_first_batches(net, train_iter, test_iter, num_epochs, precision):
    """Refuse iterators, batches and a network that do not fit; the network is tried in a copy.

    Looked at are all batches of a list, all labels of an `ImageIterator`, of others a first batch,
    and nothing of a generator or a stream. `precision` gets the layout that the network takes, and
    how many images go at once. Returns the images of a first training batch, or None; the copy,
    whose lazy layers have their sizes; a list of hints.
    """
    with _random_state_kept(precision.device, train_iter, test_iter), torch.no_grad():
        X, labels = _first_batch(train_iter, "train_iter", num_epochs)
        test_X, test_labels = _first_batch(test_iter, "test_iter", num_epochs)
        refuse((X is None and is_lazy(net),
                "the network has lazy layers, whose sizes a first batch tells, and this train_iter "
                "gives its first batch once only: call net(X) on one before training"))  # fmt: skip
        mode = contextlib.ExitStack()
        try:  # nothing that it keeps of the trial is the network's own
            memo = {id(b): UninitializedBuffer(dtype=b.dtype) for b in net.buffers()
                    if nn.parameter.is_lazy(b)}  # fmt: skip
            trial = copy.deepcopy(uncompiled(net), memo).train()
        except (RuntimeError, TypeError):  # it keeps results of earlier calls, or an open file
            trial = mode.enter_context(evaluation_mode(uncompiled(net)))
            mode.callback(trial.to, next(trial.parameters()).device)
            mode.callback(lay_out, trial, torch.contiguous_format)
        kinds = [None if t is None else (t.shape[1:], t.dtype) for t in (X, test_X)]
        with mode:
            trial.to(precision.device)
            if is_lazy(trial):
                _scores(trial, X, "train_iter", precision)
                waiting = [name for name, module in trial.named_modules() if is_lazy(module)]
                refuse((waiting, f"layer {''.join(waiting[-1:])} still waits for its first input: "
                                 "forward does not use it; take it out"))  # fmt: skip
            first = scores = None if X is None else _scores(trial, X, "train_iter", precision)
            if test_X is not None and (scores is None or kinds[0] != kinds[1]):
                scores = _scores(trial, test_X, "test_iter", precision)
            if labels is not None and first.dim() == 2:  # else they are labels already
                check_labels(labels, first.shape[1], "train_iter")
            if test_labels is not None and scores.dim() == 2:
                check_labels(test_labels, scores.shape[1], "test_iter")
            hints = list(dict.fromkeys([*_hints(X, first), *_hints(test_X)]))
            in_parts = precision.device.type == "cpu" and precision.layout == torch.channels_last
            in_parts &= X is not None and len(X) > IMAGES_AT_ONCE
            if in_parts and images_are_independent(trial.eval(), X):
                precision.images_at_once = IMAGES_AT_ONCE
    return X, trial, hints


def _first_batch(data_iter, name, num_epochs):
    """Images of a first batch, and the labels that can be known beforehand; None for neither."""
    is_iterable = hasattr(data_iter, "__iter__") or hasattr(data_iter, "__getitem__")
    refuse(
        (not is_iterable, f"{name} must yield batches (X, y), got {_described(data_iter)}"),
        (isinstance(data_iter, ONCE_ONLY) and num_epochs > 1,
         f"{name} is a {type(data_iter).__name__}, which yields its batches once only, but is "
         f"needed {num_epochs} times; give a list of batches or a DataLoader"),
    )  # fmt: skip
    own, batches = isinstance(data_iter, ImageIterator), data_iter
    if own:
        first = data_iter.batch_indices(shuffle=False)[: len(data_iter)][:1]
        batches = [data_iter.batch(indices) for indices in first]
    elif isinstance(getattr(data_iter, "dataset", None), IterableDataset):
        return None, None
    elif type(data_iter) not in (list, tuple):
        iterator = iter(data_iter)
        if not isinstance(data_iter, DataLoader) and iter(data_iter) is iterator:
            return None, None  # the next pass would go on where this one ended
        batches = [batch for _, batch in zip(range(1), iterator, strict=False)]
    refuse((not len(batches), f"{name} yields no batch: there is nothing to work on"))
    pairs = [as_tensors(batch, name) for batch in batches]
    for number, (X, _) in enumerate(pairs, start=1):
        check_images(X, name, number)
    return pairs[0][0], data_iter.labels if own else torch.cat([y.cpu() for _, y in pairs])


def _scores(net, X, name, precision):
    """The scores of a first batch as in training; `precision` gets a layout that the net takes."""
    X = X.to(precision.device, dtype_of(net) if X.is_floating_point() else None)
    if not is_lazy(net):
        lay_out(net, precision.layout)
    try:
        with torch.autocast(precision.device.type, enabled=False), precision.autocast():
            scores = net(X)
    except Exception as error:
        is_readers = isinstance(error, RuntimeError) and _layer_in(error.__traceback__) is None
        if is_readers and precision.layout != torch.contiguous_format:
            precision.layout = torch.contiguous_format  # for .view() of maps, say
            return _scores(net, X, name, precision)
        raise_explained(error, f"the images of {name}, {tuple(X.shape)}", net, X)
    if net.training or getattr(scores, "ndim", 0) != 1:  # which are labels already
        check_scores(scores, len(X))
    refuse((not scores.isfinite().all(),
            "the network's scores are not finite (NaN or infinite) before the first step: its "
            "weights or biases are not, or the images are too large; define the network anew, or "
            "bring the images to values from 0 to 1"))  # fmt: skip
    return scores


def _hints(X, scores=None):
    """What works, but hardly as it is meant."""
    if X is not None and X.is_floating_point() and X.abs().max() > 30:
        yield (
            f"images go up to {X.max().item():g}; learning rates such as the book's are for "
            "values from 0 to 1: divide by 255, as torchvision.transforms.ToTensor() does"
        )
    are_scores = scores is not None and scores.dim() == 2 and scores.shape[1] > 1
    if are_scores and scores.min() >= 0 and (scores.float().sum(1) - 1).abs().max() < 1e-3:
        yield ("the network's outputs are probabilities already (softmax); the loss applies "
               "softmax itself, and learns slowly from such: leave the last layer out")  # fmt: skip


@contextlib.contextmanager
def _random_state_kept(device, *iterators):
    """Leave the random numbers of torch, Python and NumPy, and of loaders, as they were."""
    samplers = [getattr(it, "batch_sampler", None) for it in iterators]
    owners = [*iterators, *(getattr(it, "sampler", None) for it in (*iterators, *samplers))]
    generators = [getattr(owner, "generator", None) for owner in owners]
    states = [(g, g.get_state()) for g in generators if isinstance(g, torch.Generator)]
    numpy_random = getattr(sys.modules.get("numpy"), "random", None)
    pythons, numpys = random.getstate(), numpy_random and numpy_random.get_state()
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            yield
    finally:
        random.setstate(pythons)
        if numpy_random:
            numpy_random.set_state(numpys)
        for generator, state in states:
            generator.set_state(state)


def raise_explained(error, given, net=None, X=None, size=None):
    """Raise `error` again, or what explains it: an error of memory, or of a layer of torch's.

    `given` says what was given, as "a batch of shape (4, 1, 28, 28)"; `X` is that.
    """
    size, found = size or (0 if X is None else len(X)), None
    if isinstance(error, (BadInput, OutOfMemory)):
        raise error
    if isinstance(error, RuntimeError) and re.search(OUT_OF_MEMORY, str(error)):
        smaller = f"batches of {size // 2}" if size > 1 else "less"
        raise OutOfMemory(f"out of memory with {given}: try {smaller} or a smaller resize in "
                          f"load_data_fashion_mnist; if it stays so, restart the kernel ({error})"
                          ) from error  # fmt: skip
    if net is not None:
        found = _layer_in(error.__traceback__)
    if found is None:
        raise error
    layer, taken = found
    name = next((n for n, module in uncompiled(net).named_modules() if module is layer), "")
    raise BadInput(f"the network does not take {given}: {f'layer {name}, ' if name else ''}"
                   f"{type(layer).__name__}({layer.extra_repr()}), got {tuple(taken.shape)}"
                   f"{_advice(layer, taken, X)} ({error!s:.300})") from error  # fmt: skip


def _layer_in(traceback):
    """The torch.nn module that raised, and the tensor it was given; None for a reader's code."""
    frames = []
    while traceback is not None:
        frames.append(traceback.tb_frame)
        traceback = traceback.tb_next
    for frame in reversed(frames):
        layer, code = frame.f_locals.get("self"), frame.f_code
        if TORCH not in Path(code.co_filename).parents:
            return None
        if code.co_name == "forward" and isinstance(layer, nn.Module):
            values = [frame.f_locals.get(name) for name in code.co_varnames[1 : code.co_argcount]]
            return next(((layer, v) for v in values if isinstance(v, torch.Tensor)), None)
    return None


def _advice(layer, X, images):
    """What to do about a layer that does not take X, where that is sure to fit; else ''."""
    shape, first = tuple(X.shape), images is not None and X.shape == images.shape
    features, channels = getattr(layer, "in_features", None), getattr(layer, "in_channels", None)
    window, resize = getattr(layer, "kernel_size", 0), "the argument resize sets their side"
    window = max(window if isinstance(window, tuple) else (window,))
    is_vector = features and X.dim() == 2 and images is not None and len(X) == len(images)
    is_norm = isinstance(layer, nn.modules.batchnorm._BatchNorm)
    rows = (
        (not X.is_floating_point(), f"{X.dtype}: X.float() / 255 makes images of bytes"),
        (features and X.dim() > 2 and math.prod(shape[1:]) == features,
         "put nn.Flatten() before it"),
        # Sides of another length: the ratio of the features is one of squares.
        (is_vector and math.isqrt(features * shape[1]) ** 2 == features * shape[1],
         f"it fits images of one size only; {resize}"),
        (channels and first and X.dim() == 3, "X.unsqueeze(1) adds the axis of the channels"),
        (channels and first and shape[-1] == channels != shape[1],
         "the channels stand last; X.permute(0, 3, 1, 2) puts them second"),
        (first and (channels, shape[1]) == (1, 3),
         "make the images grey, torchvision.transforms.Grayscale(), or give the network 3"),
        (first and (channels, shape[1]) == (3, 1),
         "give the first layer in_channels=1, or repeat the channel, X.expand(-1, 3, -1, -1)"),
        (X.dim() == 4 and shape[1] == (channels or shape[1]) and window > min(shape[2:]),
         f"the images are too small; {resize}"),
        (is_norm and X.numel() == layer.num_features,
         "it normalises over the batch, which takes more than one image; choose a batch size that "
         "leaves no single image over, or drop_last=True in the DataLoader"),
    )  # fmt: skip
    return next((f": {advice}" for fits, advice in rows if fits), "")
