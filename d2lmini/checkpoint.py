"""Training state on disk, so that a run that was cut off goes on as if it had not been."""

import contextlib
import errno
import hashlib
import itertools
import os
import pickle
import platform
from pathlib import Path

import torch

from d2lmini.checks import sample_of
from d2lmini.data import ImageIterator
from d2lmini.network import code_digest, forward_digest

__all__ = ["data_digest", "identity", "load", "save"]


def save(path, settings, state):
    """Write `state` and the `settings` it belongs to into `path`, whole or not at all.

    Raises:
        OSError: the folder cannot be written to; the previous file is left as it was.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Written beside the target and renamed: a kill at any moment leaves the old file or the new.
    # What it may leave of the other has a fixed name, so that the next save takes its place.
    temporary = path.with_name(path.name + ".part")
    try:
        with open(temporary, "wb") as file:
            torch.save({"settings": settings, "state": state}, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def load(path, settings, names=()):
    """Return the state in `path`, with all `names` in it, or None when there is no such file.

    Raises:
        OSError: the file cannot be opened or read.
        ValueError: the file is no checkpoint, or one of other settings; the message names the
            first difference.
    """
    path = Path(path)
    if not path.exists():
        return None
    with path.open("rb") as file:
        try:
            content = dict(torch.load(file, map_location="cpu", weights_only=True))
            found, state = dict(content["settings"]), dict(content["state"])
            for name in names:
                state[name]
        except (pickle.UnpicklingError, RuntimeError, OSError, EOFError, LookupError, TypeError,
                ValueError, AttributeError) as error:  # fmt: skip
            # A lost network drive, say: the file may be good. (EINVAL: it is cut short.)
            if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
                raise
            raise ValueError(
                f"checkpoint={str(path)!r} is not a checkpoint of train_ch6, or not all of one; "
                "delete the file or name another"
            ) from error
    # What only one of the two knows belongs to another version, of the helper or of Python.
    for name in filter(found.__contains__, settings):
        if settings.get(name) != found.get(name):
            was, now = _first_difference(found.get(name), settings.get(name))
            raise ValueError(
                f"checkpoint={str(path)!r} belongs to another run: its {name} is {was!r}, this "
                f"run's is {now!r}; name another file, or delete it to start afresh"
            )
    return state


def _first_difference(was, now):
    """The first lines that differ, of two texts; other values as they are."""
    if isinstance(was, str) and isinstance(now, str):
        lines = itertools.zip_longest(was.splitlines(), now.splitlines(), fillvalue="nothing")
        return next(((old.strip(), new.strip()) for old, new in lines if old != new), (was, now))
    return was, now


def identity(net, train_iter, test_iter):
    """What tells a run's network and data from others that look alike, by name, as texts."""
    # Bytecode, which another version of Python writes in another way.
    python = ".".join(platform.python_version_tuple()[:2])
    return {
        "training data": data_digest(train_iter),
        "test data": data_digest(test_iter),
        f"forward method under Python {python}": forward_digest(net),
        f"map of train_iter under Python {python}": _map_digest(train_iter),
        f"map of test_iter under Python {python}": _map_digest(test_iter),
    }


def _map_digest(data_iter):
    return code_digest(data_iter.transforms) if isinstance(data_iter, ImageIterator) else ""


def data_digest(data_iter):
    """A digest of the images and labels behind an iterator, as far as they can be known, as text.

    All of those of an `ImageIterator` and of a list of batches, a few of any other data set; images
    that come out differently when they are made again are left out. Of an iterator of another kind
    nothing is known.
    """
    if isinstance(data_iter, ImageIterator):
        items = [(data_iter.images, data_iter.labels)]
    elif isinstance(data_iter, (list, tuple)):
        items = [_tensors(data_iter[i]) for i in range(len(data_iter))]
    else:
        first, again = (
            [_tensors(item) for item in sample_of(getattr(data_iter, "dataset", None))]
            for _ in range(2)
        )
        pairs = zip(itertools.chain(*first), itertools.chain(*again), strict=True)
        same = all(torch.equal(one, other) for one, other in pairs)
        items = first if same else [item[1:] for item in first]
    digest = hashlib.sha256()
    for tensor in itertools.chain(*items):
        digest.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
        tensor = tensor.detach().cpu().contiguous()
        digest.update(tensor.view(torch.uint8).numpy().tobytes() if tensor.numel() else b"")
    return digest.hexdigest()[:16]


def _tensors(item):
    """An item of a data set, or a batch, as tensors, those of its parts that can be one."""
    parts = item.values() if isinstance(item, dict) else item
    found = []
    for part in parts if isinstance(item, (tuple, list, dict)) else (item,):
        with contextlib.suppress(TypeError, ValueError, RuntimeError):  # a text, a picture
            found.append(torch.atleast_1d(torch.as_tensor(part)))
    return found
