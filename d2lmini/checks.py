"""What `train_ch6` is given, looked at in one place before the first step.

Looking changes nothing: no random number is drawn, no batch is taken that training would miss.
"""

import contextlib
import copy
import io
import itertools
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

from d2lmini.batches import (
    check_images,
    check_labels,
    described,
    loading_explained,
    pair,
    scores_of,
)
from d2lmini.data import ImageIterator
from d2lmini.device import try_gpu
from d2lmini.explain import ONE_IMAGE, BadInput, whole_number
from d2lmini.network import dtype_of, evaluation_mode, is_lazy, run_on_meta, uncompiled

__all__ = [
    "check_iterator",
    "checked_arguments",
    "find_sizes",
    "look",
    "random_state_kept",
    "sample_of",
]

LARGEST_LR = torch.finfo(torch.float32).max
SHARED = (torch.Tensor, types.FunctionType, types.BuiltinFunctionType, types.ModuleType, type)
SAMPLE = 16  # items of a data set that stand for all
# What can be gone over once; an object of a reader's own may start anew each time.
ONCE_ONLY = (types.GeneratorType, map, zip, filter, enumerate, itertools.chain, itertools.islice,
             type(iter([])), type(iter(())), _BaseDataLoaderIter)  # fmt: skip


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
            f"{described(data_iter)}"
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


def look(net, X, scores, train_iter, test_iter, evaluate):
    """Refuse what would not fit later on, given a first batch and its scores; print what is odd.

    evaluate: function of a network, a list of batches and its name, to try images of another size.
    """
    _check_first_scores(scores)
    _check_single_images(net, X, train_iter, "train_iter")
    notes, trial = list(_notes(X, scores.detach())), None
    for data_iter, name in ((train_iter, "train_iter"), (test_iter, "test_iter")):
        images, labels = _known_part(data_iter, name)
        if labels is not None:
            check_labels(labels, scores.shape[1], name)
        if images is not None:
            notes += _notes(images)
            if images.shape[1:] != X.shape[1:]:  # does the network take these too?
                with contextlib.suppress(RuntimeError, TypeError):  # what cannot be copied
                    trial = copy.deepcopy(net)  # it may keep something of what it is given
                if trial is not None:
                    with random_state_kept():
                        evaluate(trial, [(images, labels[: len(images)])], name)
    for note in dict.fromkeys(notes):
        print("note:", note)


def _check_first_scores(scores):
    """Refuse scores that training cannot start from."""
    if not scores.requires_grad:
        raise BadInput(
            "the network's scores do not depend on its weights in a way that can be trained; is "
            "there a .detach(), .long(), .numpy() or torch.no_grad() in its forward?"
        )
    if not scores.isfinite().all():
        raise BadInput(
            "the network's scores are not finite (NaN or infinite) before the first step: its "
            "weights or biases are not, or the images are too large for the number format; define "
            "the network anew, or bring the images to values from 0 to 1"
        )


def _is_plain(loader):
    """Whether a DataLoader gives what is in its data set, every item once, and nothing else."""
    return (
        type(loader) is DataLoader
        and loader.collate_fn is default_collate
        and loader.batch_size is not None  # else its sampler is not what counts
        and type(loader.batch_sampler) is BatchSampler
        and type(loader.sampler) in (RandomSampler, SequentialSampler)
        and len(loader.sampler) == len(loader.dataset)
    )


def _known_part(data_iter, name):
    """A first batch of images, and all labels, of what can be looked into without a trace.

    That is lists of batches, `ImageIterator`s, and loaders of tensors or lists; of others, and of
    images that `map` changes, None.
    """
    if type(data_iter) in (list, tuple):
        batches = [pair(batch, name) for batch in data_iter]
        return batches[0][0], torch.cat([y.cpu() for _, y in batches])
    if isinstance(data_iter, ImageIterator):
        return None if data_iter.transforms else data_iter.first_images(), data_iter.labels
    if _is_plain(data_iter):
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
    with evaluation_mode(net), torch.no_grad():
        scores_of(uncompiled(net), X, "cpu", "train_iter")
    if is_lazy(net):
        *_, waiting = (name for name, module in net.named_modules() if is_lazy(module))
        raise BadInput(
            f"layer {waiting or 'net'} still waits for its first input: forward does not use it in "
            "evaluation mode; call net(X) before training, or take it out"
        )


def _check_single_images(net, X, data_iter, name):
    """Refuse batch normalisation over a batch of one image, where that can be foreseen."""
    if type(data_iter) in (list, tuple):
        smallest = min(len(pair(batch, name)[0]) for batch in data_iter)
        num_images = None
    elif isinstance(data_iter, ImageIterator) or (_is_plain(data_iter) and not data_iter.drop_last):
        num_images, batch_size = len(data_iter.dataset), data_iter.batch_size
        smallest = num_images % batch_size or batch_size
    else:
        return
    if smallest != 1 or not _needs_several(net, X[:1]):
        return
    advice = "put it into another batch"
    if num_images is not None:
        fitting = [size for size in range(2, num_images + 1) if num_images % size != 1]
        nearest = sorted(sorted(fitting, key=lambda size: abs(size - batch_size))[:2])
        advice = f"{num_images} images in batches of {batch_size}: " + (
            f"take a batch size such as {' or '.join(map(str, nearest))}, or a DataLoader with "
            "drop_last=True" if nearest else "there have to be more"
        )  # fmt: skip
    raise BadInput(
        "the network has batch normalisation, which in training needs more than one image at a "
        f"time, but {name} has a batch of one image ({advice})"
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


def _notes(X, scores=None):
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

    class Unpickler(pickle.Unpickler):
        def persistent_load(self, number):
            return shared[number]

    packed = io.BytesIO()
    Pickler(packed).dump(value)
    packed.seek(0)
    return Unpickler(packed).load()
