"""The arithmetic of a training run: number formats, memory layout, batches in parts."""

import contextlib
import math
import timeit

import torch
from torch import nn

__all__ = ["Precision"]

AUTOCAST_DTYPES = {"fp32": None, "tf32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
# On a CPU a larger batch goes through the network in parts: as fast, in less memory.
IMAGES_AT_ONCE = 64


class Precision:
    """What `train_ch6`'s argument `precision` means on `device`.

    Attributes:
        device: `torch.device`.
        name: "fp32", "tf32", "bf16" or "fp16": no longer "auto", and "tf32" on CUDA only.
        layout: memory format of the weights, which that of the activations follows.

    Raises:
        ValueError: `name` is none of these and not "auto".
    """

    def __init__(self, name, device):
        if name not in (*AUTOCAST_DTYPES, "auto"):
            raise ValueError(
                f"precision must be one of {', '.join(AUTOCAST_DTYPES)} or auto, got {name!r}"
            )
        self.device = device
        self.layout = torch.contiguous_format  # the reference's
        # Convolutions on CPUs and on tensor cores are faster with the channels innermost.
        if name != "fp32" and device.type in ("cpu", "cuda"):
            self.layout = torch.channels_last
        if name == "auto":
            name = _fastest(device)
        self.name = "fp32" if name == "tf32" and device.type != "cuda" else name

    def autocast(self):
        """The context in which the network's forward pass runs."""
        dtype = AUTOCAST_DTYPES[self.name]
        return torch.autocast(self.device.type, dtype, enabled=dtype is not None)

    def tune(self, is_worth_it):
        """Whether cuDNN tries algorithms for shapes that it meets for the first time.

        For GoogLeNet that takes ten seconds, as much as an epoch: not for the last, shorter batch.
        To be called inside `applied_to`, which puts the setting back.
        """
        if self.device.type == "cuda":
            torch.backends.cudnn.benchmark = is_worth_it

    def images_at_once(self, net):
        """How many images of a batch go through `net` together in training."""
        in_parts = self.device.type == "cpu" and self.layout == torch.channels_last
        return IMAGES_AT_ONCE if in_parts and _images_are_independent(net) else math.inf

    @contextlib.contextmanager
    def applied_to(self, net):
        """Training's memory layout and matrix products, put back afterwards."""
        on_cuda = self.device.type == "cuda"
        products = _cuda_products(self.name != "fp32") if on_cuda else contextlib.nullcontext()
        net.to(memory_format=self.layout)
        try:
            with products:
                yield
        finally:
            with contextlib.suppress(torch.OutOfMemoryError):  # the first one tells what to do
                net.to(memory_format=torch.contiguous_format)


def _fastest(device):
    if device.type == "cuda":
        with torch.cuda.device(device):
            return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    return "bf16" if device.type == "cpu" and _multiplies_bf16_faster() else "fp32"


def _multiplies_bf16_faster():
    """Whether this CPU multiplies bf16 faster than fp32: with instructions for it, many do not."""
    seconds = []
    for dtype in (torch.bfloat16, torch.float32):
        A = torch.ones(512, 512, dtype=dtype)
        seconds.append(min(timeit.repeat(lambda A=A: A @ A, number=1, repeat=5)))
    return seconds[0] < seconds[1]


def _images_are_independent(net):
    """Whether an image's scores do not depend on the rest of its batch, as batch norm's do.

    Every layer that has parameters or buffers, or could have, must be of the two kinds known here;
    a function that mixes the images without any would not be noticed.
    """
    return all(
        isinstance(module, (nn.Linear, nn.Conv2d))
        for module in net.modules()
        if module._parameters or module._buffers
    )


@contextlib.contextmanager
def _cuda_products(tf32):
    cudnn, matmul_precision = torch.backends.cudnn, torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    try:
        with cudnn.flags(
            enabled=True, benchmark=True, deterministic=cudnn.deterministic, allow_tf32=tf32
        ):
            yield
    finally:
        torch.set_float32_matmul_precision(matmul_precision)
