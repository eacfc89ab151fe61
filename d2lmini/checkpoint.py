"""Training state on disk, so that a run that was cut off goes on as if it had not been."""

import dataclasses
import hashlib
import io
import os
import tempfile
import warnings
from pathlib import Path

import torch

from d2lmini.data import ImageIterator
from d2lmini.device import rng_state


class Checkpoint:
    """The file of a run at `path`; where that is None there is none, and nothing is written.

    `settings` are the plain values by which it knows its run, `state` is all that the epochs to
    come depend on; both are None without a file.
    """

    def __init__(self, path):
        """Read the file. OSError: it cannot be read just now; ValueError: it is no checkpoint."""
        self.path, self.settings, self.state = path, None, None
        if path is None or not Path(path).exists():
            return
        content, file = Path(path).read_bytes(), f"checkpoint={str(path)!r}"
        try:
            content = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
            self.settings, self.state = dict(content["settings"]), dict(content["state"])
            self.state["net"], self.state["history"]
        except Exception as error:  # torch raises whatever other bytes come to
            raise ValueError(f"{file} is not a checkpoint of train_ch6, or not all of one; delete "
                             "the file or name another") from error  # fmt: skip
        if "init_weights" not in self.settings:
            raise ValueError(f"{file} was written by an earlier d2lmini: its weights can be read, "
                             "but training cannot go on from it; name another file")  # fmt: skip

    def check_same_run(self, net, train_iter, test_iter, lr, seed, precision, init_weights):
        """Note the settings of this run; refuse those of another, naming what differs first."""
        parameters, generator = dict(net.named_parameters()), getattr(train_iter, "generator", None)
        sizes = {name: getattr(train_iter, name, None) for name in ("batch_size", "resize")}
        settings = {
            "network": str(net),
            "parameters": "\n".join(f"{name} {tuple(p.shape)}{'' if p.requires_grad else ' frozen'}"
                                    for name, p in parameters.items()),
            **{name: size if isinstance(size, int) else None for name, size in sizes.items()},
            "lr": float(lr), "seed": seed, "own generator": isinstance(generator, torch.Generator),
            "number format": precision.name, "device": precision.device.type,
            "data": _hash_of(t for it in (train_iter, test_iter) if isinstance(it, ImageIterator)
                             for t in (it.images, it.labels)),
            "init_weights": init_weights or _hash_of(parameters.values()),
        }  # fmt: skip
        self.settings, reached = self.settings or settings, self.state["net"] if self.state else {}
        weights = (reached.get(name, p) for name, p in parameters.items())
        if not init_weights and settings["init_weights"] == _hash_of(weights):
            settings["init_weights"] = self.settings["init_weights"]  # the run's own
        for name, now in settings.items():
            if (was := self.settings.get(name)) != now:
                values = f"{name} is {was!r}, this run's is {now!r}"
                raise ValueError(f"checkpoint={str(self.path)!r} belongs to another run: its "
                                 f"{values if len(values) < 200 else name + ' differs'}; name "
                                 "another file, or delete it to start afresh")  # fmt: skip

    def restore(self, net, scaler, train_iter, device):
        """Take up the run that left the file; return its history as a dict."""
        net.load_state_dict(self.state["net"])
        scaler.load_state_dict(self.state["scaler"])
        torch.set_rng_state(self.state["rng"])
        if self.state["device_rng"] is not None:
            getattr(torch, device.type).set_rng_state(self.state["device_rng"], device)
        if self.state["order"] is not None:
            train_iter.generator.set_state(self.state["order"])
        return self.state["history"]

    def save(self, net, scaler, train_iter, device, history):
        """Write the file whole or not at all; where it cannot be written, a warning says so."""
        if self.path is None:
            return
        path, generator = Path(self.path), getattr(train_iter, "generator", None)
        self.state = {
            "net": net.state_dict(), "scaler": scaler.state_dict(), "rng": torch.get_rng_state(),
            "device_rng": rng_state(device) if device.type != "cpu" else None,
            "order": generator.get_state() if isinstance(generator, torch.Generator) else None,
            "history": dataclasses.asdict(history),
        }  # fmt: skip
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # Beside the target, in a folder of its own, and renamed: a kill at any moment, or
            # another run that writes the same file, leaves the old file or the new one.
            with tempfile.TemporaryDirectory(".part", path.name + ".", path.parent) as private:
                with open(Path(private) / path.name, "wb") as file:
                    torch.save({"settings": self.settings, "state": self.state}, file)
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(file.name, path)
        except (OSError, RuntimeError) as error:  # a full disk, say: training goes on
            epoch = len(history.test_acc)
            warnings.warn(f"checkpoint of epoch {epoch} not written: {error}", stacklevel=2)


def _hash_of(tensors):
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()[:16]
