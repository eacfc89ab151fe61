"""Batches of images and labels, from whatever a reader has: taken as tensors, or refused.

A refusal says in a sentence or two what was given, what is needed, and what to do.
"""

import contextlib
import itertools
import math

import torch

from d2lmini.data import ImageIterator
from d2lmini.explain import BadInput, explained
from d2lmini.network import dtype_of

__all__ = [
    "batches",
    "check_images",
    "check_labels",
    "check_scores",
    "described",
    "loading_explained",
    "pair",
    "scores_of",
    "to_device",
]

END = object()  # what is no batch
# Torch's words, those that stand before what it found, and what to say of it.
LOADING_ERRORS = (
    (
        "must contain tensors, numpy arrays",
        "found ",
        "the data set of {name} gives what is no tensor ({found}); "
        "torchvision.transforms.ToTensor() makes tensors of pictures",
    ),
    (
        "stack expects each tensor to be equal size",
        "but ",
        "the images of {name} are of different sizes ({found}); "
        "torchvision.transforms.Resize((side, side)) makes them equal",
    ),
)


def batches(data_iter, device, name):
    """Yield (X, y) of any iterable of batches, as tensors.

    An `ImageIterator` makes them on `device`; others stay where they come from. Whatever is no
    batch of images and labels is refused; `name` says in the message what yields it.
    """
    if callable(getattr(data_iter, "on", None)):
        data_iter = data_iter.on(device)
    finite = isinstance(data_iter, ImageIterator) and not data_iter.transforms
    device_type, iterator = torch.device(device).type, iter(data_iter)
    for number in itertools.count(1):
        with torch.autocast(device_type, enabled=False), loading_explained(name):
            batch = next(iterator, END)
        if batch is END:
            return
        X, y = pair(batch, name)
        if X.device.type == "cpu" and not finite:  # a GPU would be waited for
            check_images(X, name, number)
        yield X, y


@contextlib.contextmanager
def loading_explained(name):
    """The errors of a DataLoader that everyone meets, in its workers too."""
    try:
        yield
    except (TypeError, RuntimeError) as error:
        text = str(error)
        for words, before_found, explanation in LOADING_ERRORS:
            if words in text:
                found = text.split(before_found)[-1].strip()
                raise BadInput(explanation.format(name=name, found=found)) from error
        raise


def pair(batch, name):
    """Images and labels of a batch of `name`, as tensors, the labels int64 (B,)."""
    if not isinstance(batch, (tuple, list, dict, str, torch.Tensor)):
        with contextlib.suppress(TypeError):  # whatever can be taken apart
            batch = tuple(batch)
    if not isinstance(batch, (tuple, list)) or len(batch) != 2:
        raise BadInput(
            f"{name} must yield pairs (X, y) of images and labels, got {described(batch)}; yield "
            "only these two, for example [(batch[0], batch[1]) for batch in ...]"
        )
    X, y = batch
    text = _first_text(y)
    if text is not None:
        raise BadInput(
            f"{name} has labels that are texts, such as {text!r}; number the classes 0, 1, 2, ... "
            "and give each image its class's number"
        )
    X = _tensor(X, f"{name} must yield pairs (X, y) of tensors, got {described(batch)}; "
                   "torchvision.transforms.ToTensor() makes tensors of pictures")  # fmt: skip
    y = _tensor(y, f"{name} must yield pairs (X, y) of tensors, got labels that are "
                   f"{described(y)}; give the numbers of the classes")  # fmt: skip
    if X.dim() and not y.dim():
        raise BadInput(
            f"{name} yields images one by one, {described(X)}, with a label each, not batches of "
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


def described(value):
    """What a value is, in a few words."""
    if isinstance(value, torch.Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    if isinstance(value, dict):
        return f"a dict with the keys {', '.join(map(repr, value))}"
    if isinstance(value, (tuple, list)):
        inside = ", ".join(map(described, value[:4])) + (", ..." if len(value) > 4 else "")
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


def scores_of(net, X, device, name):
    """`net(X)` on `device`; where images of `name` do not fit, why and what to do about it."""
    X = to_device(X, device, dtype_of(net))
    with explained(f"the images of {name}, {tuple(X.shape)}", len(X), net, X):
        return net(X)


def to_device(X, device, dtype=None):
    """The tensor on `device`, in `dtype` if it holds floats.

    Only CUDA may copy while the program goes on; others mix data up.
    """
    dtype = dtype if X.is_floating_point() else None
    return X.to(device, dtype, non_blocking=torch.device(device).type == "cuda")
