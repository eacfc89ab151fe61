"""What readers bring, looked at in one place: batches, labels, scores, and what fits what.

Whatever is wrong is said in a sentence or two: what was given, what is needed, what to do. Looking
changes nothing: no random number is drawn, no batch is taken that training would miss.
"""

import contextlib
import io
import itertools
import math
import numbers
import os
import pickle
import random
import sys
import tempfile
import types
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    TensorDataset,
    default_collate,
)
from torch.utils.data.dataloader import _BaseDataLoaderIter

from d2lmini.data import ImageIterator
from d2lmini.device import try_gpu
from d2lmini.explain import ONE_IMAGE, BadInput, explained, loading_explained, whole_number
from d2lmini.network import dtype_of, evaluation_mode, is_lazy, run_on_meta, uncompiled

__all__ = [
    "check_first_scores",
    "check_images",
    "check_iterator",
    "check_labels",
    "check_scores",
    "check_single_images",
    "checked_arguments",
    "find_sizes",
    "known_part",
    "notes",
    "pair",
    "random_state_kept",
    "sample_of",
]

LARGEST_LR = torch.finfo(torch.float32).max
SHARED = (torch.Tensor, types.FunctionType, types.BuiltinFunctionType, types.ModuleType, type)
SAMPLE = 16  # items of a data set that stand for all
# What can be gone over once; an object of a reader's own may start anew each time.
ONCE_ONLY = (types.GeneratorType, map, zip, filter, enumerate, itertools.chain, itertools.islice,
             type(iter([])), type(iter(())), _BaseDataLoaderIter)  # fmt: skip


# --- batches --------------------------------------------------------------------------------------


def pair(batch, name):
    """Images and labels of a batch of `name`, as tensors, the labels int64 (B,)."""
    if not isinstance(batch, (tuple, list, dict, str, torch.Tensor)):
        with contextlib.suppress(TypeError):  # whatever can be taken apart
            batch = tuple(batch)
    if not isinstance(batch, (tuple, list)) or len(batch) != 2:
        raise BadInput(
            f"{name} must yield pairs (X, y) of images and labels, got {_described(batch)}; yield "
            "only these two, for example [(batch[0], batch[1]) for batch in ...]"
        )
    X, y = batch
    text = _first_text(y)
    if text is not None:
        raise BadInput(
            f"{name} has labels that are texts, such as {text!r}; number the classes 0, 1, 2, ... "
            "and give each image its class's number"
        )
    X = _tensor(X, f"{name} must yield pairs (X, y) of tensors, got {_described(batch)}; "
                   "torchvision.transforms.ToTensor() makes tensors of pictures")  # fmt: skip
    y = _tensor(y, f"{name} must yield pairs (X, y) of tensors, got labels that are "
                   f"{_described(y)}; give the numbers of the classes")  # fmt: skip
    if X.dim() and not y.dim():
        raise BadInput(
            f"{name} yields images one by one, {_described(X)}, with a label each, not batches of "
            "them: give DataLoader(data_set, batch_size)"
        )
    num_images, num_labels = (len(t) if t.dim() else 0 for t in (X, y))
    if num_images != num_labels or num_images == 0:
        raise BadInput(
            f"a batch of {name} needs at least one image, and a label for each; got "
            f"{num_images} images and {num_labels} labels"
        )
    if (
        y.dim() != 1
        or y.is_complex()
        or (y.is_floating_point() and not ((y == y.round()) & y.isfinite()).all())
    ):
        advice = "" if y.dim() != 2 else (
            "; y.squeeze(1) takes the second axis away" if y.shape[1] == 1
            else "; of one row of scores an image, y.argmax(1) makes them"
        )  # fmt: skip
        raise BadInput(
            "labels must be whole numbers of shape (B,), the number of each image's class; "
            f"{name} has {y.dtype} of shape {tuple(y.shape)}{advice}"
        )
    return X, y.long()


def _first_text(labels):
    if isinstance(labels, str):
        return labels
    if getattr(getattr(labels, "dtype", None), "kind", "") in ("U", "S", "O"):  # NumPy's
        labels = list(labels)
    if isinstance(labels, (tuple, list)):
        return next((str(label) for label in labels if isinstance(label, (str, bytes))), None)
    return None


def _tensor(value, otherwise):
    try:
        return torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError) as error:
        if "negative strides" in str(error):
            otherwise = "the arrays of NumPy run backwards; a.copy() puts them in order"
        raise BadInput(otherwise) from error


def _described(value):
    """What a value is, in a few words."""
    if isinstance(value, torch.Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    if isinstance(value, dict):
        return f"a dict with the keys {', '.join(map(repr, value))}"
    if isinstance(value, (tuple, list)):
        inside = ", ".join(map(_described, value[:4])) + (", ..." if len(value) > 4 else "")
        return f"a {type(value).__name__} of {len(value)}: {inside}"
    return f"a {type(value).__name__}"


def check_images(X, name, number):
    """Refuse images that are not finite; `number` is the batch's, from 1."""
    # The sum is finite if all are, and far quicker than looking at each.
    if not X.is_floating_point() or math.isfinite(X.sum()):
        return
    if not X.isfinite().all():
        raise BadInput(
            f"batch {number} of {name} holds images that are not finite (NaN or infinite): "
            "look at the files they come from, and for a division by 0 in what prepares them"
        )


def check_labels(labels, num_classes, name):
    """Refuse labels for which the network has no score."""
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= num_classes:
        advice = f"the last layer needs {high + 1} outputs"
        if low < 0:
            advice = "labels start at 0"
        elif low == 1 and high == num_classes:
            advice = "number the classes from 0"
        raise BadInput(
            f"{name} has labels from {low} to {high}, but the network has {num_classes} scores, "
            f"for labels 0 to {num_classes - 1}: {advice}"
        )


def check_scores(scores, num_images):
    """Refuse an output of the network that is no tensor of scores (B, num_classes)."""
    if not isinstance(scores, torch.Tensor):
        name = type(scores).__name__
        given = f"a {name}"
        if isinstance(scores, dict):
            given = f"a {name} with the keys {', '.join(map(repr, scores))}"
        elif hasattr(scores, "__len__"):
            given = f"a {name} of {len(scores)} values"
        raise BadInput(
            f"the network returned {given} where one tensor of scores, ({num_images}, "
            "num_classes), is needed; leave the others out when it is built (torchvision: "
            "aux_logits=False), or wrap it in a module that returns the one"
        )
    if scores.dim() != 2 or len(scores) != num_images:
        raise BadInput(
            f"the network must return scores of shape ({num_images}, num_classes) for "
            f"{num_images} images, got {tuple(scores.shape)}; does it lack nn.Flatten()?"
        )


def check_first_scores(scores):
    """Refuse scores that training cannot start from."""
    if not scores.requires_grad:
        raise BadInput(
            "the network's scores do not depend on its weights in a way that can be trained; is "
            "there a .detach(), .long(), .numpy() or torch.no_grad() in its forward?"
        )
    if not scores.isfinite().all():
        raise BadInput(
            "the network's scores are not finite (NaN or infinite) before the first step: its "
            "weights or biases are not; define the network anew"
        )


# --- before training ------------------------------------------------------------------------------


def checked_arguments(net, lr, device, seed, checkpoint):
    """The device and the seed as torch takes them; refused is what `train_ch6` cannot work with."""
    if not isinstance(net, nn.Module):
        raise TypeError(f"net must be an nn.Module, got {net!r:.200}")
    if not (isinstance(lr, numbers.Real) and 0 < lr <= LARGEST_LR):
        raise ValueError(f"lr must be a positive number, got {lr!r}")
    if not any(p.requires_grad for p in net.parameters()):
        raise ValueError("the network has no parameter to train")
    if checkpoint is not None:
        _check_writable(checkpoint)
    if seed is not None:
        seed = whole_number("seed", seed, -(2**63), "a whole number of at most 64 bits")
        if seed >= 2**63:
            raise ValueError(f"seed must be a whole number of at most 64 bits, got {seed}")
    try:
        device = torch.device(device) if device is not None else try_gpu()
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"device must be such as 'cpu' or 'cuda:0', got {device!r}") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            f"device is {str(device)!r}, but torch finds no CUDA GPU here; leave the argument out "
            "to take what there is"
        )
    return device, seed


def _check_writable(path):
    """Find out before the first epoch, not after it."""
    if not isinstance(path, (str, os.PathLike)):
        raise ValueError(f"checkpoint={path!r} cannot be written: it is no path")
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=Path(path).parent):
            pass
        if Path(path).is_dir():
            raise IsADirectoryError("it is a folder")
    except OSError as error:
        raise ValueError(
            f"checkpoint={str(path)!r} cannot be written ({error}); name another file"
        ) from error


def check_iterator(data_iter, name, num_passes):
    """Refuse what is no iterable of batches, has none, or cannot be gone over so many times."""
    if not hasattr(data_iter, "__iter__") and not hasattr(data_iter, "__getitem__"):
        raise BadInput(
            f"{name} must yield batches (X, y), as a DataLoader or a list of them does; got "
            f"{_described(data_iter)}"
        )
    if isinstance(data_iter, ONCE_ONLY) and num_passes > 1:
        raise BadInput(
            f"{name} is a {type(data_iter).__name__}, which yields its batches once only, but is "
            f"needed {num_passes} times; give a list of batches or a DataLoader"
        )
    with contextlib.suppress(TypeError):  # of unknown length
        if len(data_iter) == 0:
            raise BadInput(f"{name} yields no batch: there is nothing to train on or to evaluate")
    if type(data_iter) in (list, tuple):
        for number, batch in enumerate(data_iter, start=1):
            X, _ = pair(batch, name)
            if X.device.type == "cpu":
                check_images(X, name, number)


def is_plain(loader):
    """Whether a DataLoader gives what is in its data set, every item once, and nothing else."""
    return (
        type(loader) is DataLoader
        and loader.collate_fn is default_collate
        and type(loader.batch_sampler) is BatchSampler
        and type(loader.sampler) in (RandomSampler, SequentialSampler)
        and len(loader.sampler) == len(loader.dataset)
    )


def known_part(data_iter, name):
    """A first batch of images, and all labels, of what can be looked into without a trace.

    That is lists of batches, `ImageIterator`s, and loaders of tensors or lists; of others, and of
    images that `map` changes, None.
    """
    if type(data_iter) in (list, tuple):
        batches = [pair(batch, name) for batch in data_iter]
        return batches[0][0], torch.cat([y.cpu() for _, y in batches])
    if isinstance(data_iter, ImageIterator):
        return None if data_iter.transforms else data_iter.first_images(), data_iter.labels
    if is_plain(data_iter):
        data_set, size = data_iter.dataset, data_iter.batch_size
        if type(data_set) is TensorDataset and len(data_set.tensors) == 2:
            X, y = pair(data_set.tensors, name)
            return X[:size], y
        if type(data_set) in (list, tuple):
            with contextlib.suppress(Exception):  # items of another kind: training will tell
                labels = torch.as_tensor([int(label) for _, label in data_set])
                return pair(default_collate(list(data_set[:size])), name)[0], labels
    return None, None


@contextlib.contextmanager
def random_state_kept(data_iter=None):
    """Leave the random numbers of torch, Python and NumPy, and of a loader, as they were."""
    samplers = [getattr(data_iter, "sampler", None)]
    samplers.append(getattr(getattr(data_iter, "batch_sampler", None), "sampler", None))
    generators = {
        id(owner.generator): owner.generator
        for owner in (data_iter, *samplers)
        if isinstance(getattr(owner, "generator", None), torch.Generator)
    }
    states = [(generator, generator.get_state()) for generator in generators.values()]
    numpy_random = getattr(sys.modules.get("numpy"), "random", None)
    pythons, numpys = random.getstate(), numpy_random and numpy_random.get_state()
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        random.setstate(pythons)
        if numpy_random:
            numpy_random.set_state(numpys)
        for generator, state in states:
            generator.set_state(state)


def find_sizes(net, train_iter):
    """Let lazy layers get their sizes from a first batch."""
    X = None
    if type(train_iter) in (list, tuple):
        X, _ = pair(train_iter[0], "train_iter")
    elif isinstance(train_iter, ImageIterator) or (
        isinstance(train_iter, DataLoader) and not isinstance(train_iter.dataset, IterableDataset)
    ):
        with random_state_kept(train_iter), loading_explained("train_iter"):
            X, _ = pair(next(iter(train_iter)), "train_iter")
    if X is None:
        raise BadInput(
            "the network has lazy layers, whose sizes a first batch tells, and this train_iter "
            "gives its first batch once only: call net(X) on one before training"
        )
    X, plain = X.cpu(), uncompiled(net)
    X = X.to(dtype_of(net)) if X.is_floating_point() else X
    given = f"the images of train_iter, {tuple(X.shape)}"
    with evaluation_mode(net), torch.no_grad(), explained(given, len(X), plain, X):
        plain(X)
    if is_lazy(net):
        *_, waiting = (name for name, module in net.named_modules() if is_lazy(module))
        raise BadInput(
            f"layer {waiting or 'net'} still waits for its first input: forward does not use it in "
            "evaluation mode; call net(X) before training, or take it out"
        )


def check_single_images(net, X, data_iter, name):
    """Refuse batch normalisation over a batch of one image, where that can be foreseen."""
    if type(data_iter) in (list, tuple):
        smallest = min(len(pair(batch, name)[0]) for batch in data_iter)
        advice = "put it into another batch"
    elif isinstance(data_iter, ImageIterator) or (is_plain(data_iter) and not data_iter.drop_last):
        num_images, batch_size = len(data_iter.dataset), data_iter.batch_size
        smallest = num_images % batch_size or batch_size
        fitting = [size for size in range(2, num_images + 1) if num_images % size != 1]
        nearest = sorted(sorted(fitting, key=lambda size: abs(size - batch_size))[:2])
        advice = f"{num_images} images in batches of {batch_size}: " + (
            f"take a batch size such as {' or '.join(map(str, nearest))}, or a DataLoader with "
            "drop_last=True" if nearest else "there have to be more"
        )  # fmt: skip
    else:
        return
    if smallest == 1 and _needs_several(net, X[:1]):
        raise BadInput(
            "the network has batch normalisation, which in training needs more than one image at "
            f"a time, but {name} has a batch of one image ({advice})"
        )


def _needs_several(net, image):
    """Whether training on one image fails for batch normalisation; tried on shapes alone.

    Only with layers of torch's own: others may keep something of what they are given.
    """
    net = uncompiled(net)
    for module in net.modules():
        own = type(module).__module__.startswith("torch.nn.")
        if not own or module._forward_hooks or module._forward_pre_hooks:
            return False
    with evaluation_mode(net), torch.no_grad(), random_state_kept():
        net.train()
        try:
            run_on_meta(net, image.to(dtype_of(net)))
        except ValueError as error:
            return ONE_IMAGE in str(error)
        except Exception:  # it cannot be tried without numbers
            pass
        return False


def notes(X, scores=None):
    """What works, but hardly as it is meant; `scores` are those of training."""
    if X.is_floating_point() and X.abs().max() > 30:
        yield (
            f"images go up to {X.max().item():g}; learning rates such as the book's are for values "
            "from 0 to 1: divide by 255, as torchvision.transforms.ToTensor() does"
        )
    if scores is not None and scores.shape[1] > 1 and scores.min() >= 0:
        sums = scores.float().sum(1)
        if torch.allclose(sums, torch.ones_like(sums), atol=1e-3):
            yield (
                "the network's outputs are probabilities already (softmax); the loss applies "
                "softmax itself, and learns slowly from such: leave the last layer out"
            )


def sample_of(data_set):
    """Some items of a data set, spread evenly; [] where none can be had.

    They come from a copy, so that nothing that it opens, draws or counts is the data set's own.
    Random numbers of torch, Python and NumPy drawn to make them are the same each time.
    """
    with random_state_kept():
        torch.default_generator.manual_seed(0)
        random.seed(0)
        if "numpy" in sys.modules:
            sys.modules["numpy"].random.seed(0)
        try:
            data_set = _copied(data_set)
            last = len(data_set) - 1
            places = dict.fromkeys(last * i // (SAMPLE - 1) for i in range(SAMPLE))
            return [data_set[place] for place in places]
        except Exception:  # a stream, a file that is open, keys of its own: nothing can be had
            return []


def _copied(value):
    """A copy down to the last part, but for what is large and stays as it is."""
    shared = []

    class Pickler(pickle.Pickler):
        def persistent_id(self, part):
            if not isinstance(part, SHARED) and type(part).__name__ != "ndarray":
                return None
            shared.append(part)
            return len(shared) - 1

    packed = io.BytesIO()
    Pickler(packed).dump(value)
    packed.seek(0)
    unpickler = pickle.Unpickler(packed)
    unpickler.persistent_load = shared.__getitem__
    return unpickler.load()
