"""What the tools run in a kernel beside a chapter's cells, which stay as the reader sees them.

While the training cell runs, seed, checkpoint and precision reach `train_ch6` from here, and its
history comes back; with a training that is done already, its weights and history do.
"""

import copy
import dataclasses
import functools
import platform
import time
from pathlib import Path

import torch

import d2lmini
from d2lmini.device import device_name
from tools import files, weights

trainer = d2lmini.train_ch6
histories = []  # of the cell that runs


def machine():
    """Where and with what the kernel runs."""
    device = d2lmini.try_gpu()
    return {
        "device": str(device),
        "device_name": device_name(device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "python": platform.python_version(),
    }


def watch(seed, options=None, done=None, rounded=None):
    """Seed what the next cell draws, and keep the histories of its trainings.

    options: go to `train_ch6`, once. done: (weights' file, history) of a training that takes its
    place. rounded: file for the rounded weights, and for how well they do.
    """
    histories.clear()
    if seed is not None:
        torch.manual_seed(seed)

    @functools.wraps(trainer)
    def train_ch6(net, train_iter, test_iter, *args, **kwargs):
        if histories and (options or done):
            raise RuntimeError("the training cell calls train_ch6 twice; a record is of one call")
        if done:
            device = args[2] if len(args) > 2 else kwargs.get("device") or d2lmini.try_gpu()
            content = torch.load(done[0], map_location="cpu", weights_only=True)
            net.load_state_dict(content["state"]["net"])
            net.to(device).eval()
            history = d2lmini.History(**done[1])
        else:
            history = trainer(net, train_iter, test_iter, *args, **kwargs | (options or {}))
        histories.append(dataclasses.asdict(history))
        numbers = sum(tensor.numel() for tensor in net.state_dict().values())
        if rounded and not history.stopped and numbers <= weights.LARGEST:
            _round(net, test_iter, Path(rounded))
        return history

    d2lmini.train_ch6 = train_ch6


def collected():
    """The histories since `watch`, and the processor's time so far."""
    return histories, time.process_time()


def _round(net, test_iter, path):
    """Write the network's rounded weights, and beside them their accuracy on the test images."""
    content = weights.pack(net.state_dict())
    copied = copy.deepcopy(net)
    copied.load_state_dict(dict(weights.unpack(content)))
    files.write_whole(path, content)
    test_acc = d2lmini.evaluate_accuracy_gpu(copied, test_iter)
    files.write_json(path.with_suffix(".json"), {"test_acc": test_acc})
