"""Training state on disk, so that a run that was cut off goes on as if it had not been."""

import errno
import hashlib
import os
import pickle
import tempfile
import time
from pathlib import Path

import torch

from d2lmini.checks import BadInput, refuse
from d2lmini.data import ImageIterator

__all__ = ["check_same_run", "fingerprint", "hash_of", "load", "restore", "save", "state_of"]

STALE = 3600  # seconds after which a file that is still being written is what a kill has left


def save(path, settings, state):
    """Write `state` and the fingerprint `settings` into `path`, whole or not at all.

    OSError or RuntimeError when it cannot be written; the previous file is left as it was.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob(f"{path.name}.*.part"):
        if time.time() - left.stat().st_mtime > STALE:
            left.unlink(missing_ok=True)
    # Written beside the target, under a name of its own, and renamed: a kill at any moment, or
    # another run that writes the same file, leaves the old file or the new one.
    handle, temporary = tempfile.mkstemp(".part", path.name + ".", path.parent)
    try:
        with open(handle, "wb") as file:
            torch.save({"settings": settings, "state": state}, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def load(path):
    """Return the settings and the state in `path`; None, None when there is no such file.

    OSError when it cannot be read just now; ValueError: no checkpoint, or one of an older form.
    """
    path = Path(path)
    if not path.exists():
        return None, None
    with path.open("rb") as file:
        try:
            content = dict(torch.load(file, map_location="cpu", weights_only=True))
            settings, state = dict(content["settings"]), dict(content["state"])
            state["net"], state["history"], state["rng"]
        except (pickle.UnpicklingError, RuntimeError, OSError, EOFError, LookupError, TypeError,
                ValueError, AttributeError) as error:  # fmt: skip
            # A lost network drive, say: the file may be good. (EINVAL: it is cut short.)
            if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
                raise
            raise BadInput(f"checkpoint={str(path)!r} is not a checkpoint of train_ch6, or not all "
                           "of one; delete the file or name another") from error  # fmt: skip
    refuse(("init_weights" not in settings,
            f"checkpoint={str(path)!r} was written by an earlier d2lmini: its weights can be read, "
            "but training cannot go on from it; name another file"))  # fmt: skip
    return settings, state


def _device_rng(device, *state):
    """Get, or set, the state of the random numbers of a GPU; None of a CPU."""
    of_device = getattr(torch, device.type, None) if device.type in ("cuda", "mps") else None
    on_cuda = [device] if device.type == "cuda" else []
    if of_device is None:
        return None
    return of_device.set_rng_state(*state, *on_cuda) if state else of_device.get_rng_state(*on_cuda)


def state_of(net, scaler, train_iter, device):
    """All that the epochs to come depend on but the history; plain SGD has no state of its own."""
    generator = getattr(train_iter, "generator", None)
    order = generator.get_state() if isinstance(generator, torch.Generator) else None
    return {"net": net.state_dict(), "scaler": scaler.state_dict(), "rng": torch.get_rng_state(),
            "device_rng": _device_rng(device), "order": order}  # fmt: skip


def restore(state, net, scaler, train_iter, device):
    """Take up the run that left `state`."""
    net.load_state_dict(state["net"])
    scaler.load_state_dict(state["scaler"])
    torch.set_rng_state(state["rng"])
    _device_rng(device, state["device_rng"])
    if state["order"] is not None:
        train_iter.generator.set_state(state["order"])


def fingerprint(net, train_iter, test_iter, lr, seed, precision, init_weights):
    """The plain values by which a checkpoint knows its run, by name, as numbers and texts."""
    parameters, settings = list(net.named_parameters()), {"network": str(net)}
    settings["parameters"] = "\n".join(f"{name} {tuple(p.shape)}" for name, p in parameters)
    settings["frozen parameters"] = "\n".join(n for n, p in parameters if not p.requires_grad)
    for name, data_iter in (("training", train_iter), ("test", test_iter)):
        own = isinstance(data_iter, ImageIterator)
        settings[f"{name} data"] = hash_of([data_iter.images, data_iter.labels]) if own else None
    for name in ("batch_size", "resize"):
        size = getattr(train_iter, name, None)
        settings[name] = size if isinstance(size, int) else None
    return {
        **settings,
        **{"lr": float(lr), "seed": seed, "number format": precision.name},
        **{"memory layout": str(precision.layout), "device": precision.device.type},
        "init_weights": init_weights or hash_of(p for _, p in parameters),
        "own generator": isinstance(getattr(train_iter, "generator", None), torch.Generator),
    }


def hash_of(tensors):
    """A hash of numbers and shapes, as text."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
        flat = tensor.detach().cpu().contiguous().flatten()
        digest.update(flat.view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


def check_same_run(path, found, settings, state):
    """Return the settings in the file; refuse others than `settings`, naming what differs first."""
    names = [line.split(" ")[0] for line in settings["parameters"].splitlines()]
    for name, now in settings.items():
        was = found.get(name)
        if was == now:
            continue
        own_weights = name == "init_weights" and isinstance(now, str) and isinstance(was, str)
        if own_weights and now == hash_of(map(state["net"].get, names)):
            continue  # they are those that the run has reached
        if isinstance(was, str) and isinstance(now, str):  # the first lines that differ
            lines = zip([*was.splitlines(), ""], [*now.splitlines(), ""], strict=False)
            was, now = next((pair for pair in lines if pair[0] != pair[1]), (was, now))
        difference = f"its {name} is {was!r}, this run's is {now!r}"
        raise BadInput(f"checkpoint={str(path)!r} belongs to another run: {difference}; name "
                       "another file, or delete it to start afresh")  # fmt: skip
    return found
