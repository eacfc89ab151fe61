"""How a training run computes on its device: precision, memory layout, and memory on a CPU."""

import contextlib
import ctypes
import math
import platform
import timeit

import torch
from torch import nn

__all__ = ["Arithmetic"]

AUTOCAST_DTYPES = {"fp32": None, "tf32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
# On a CPU a larger batch goes through the network in parts: as fast, in less memory.
IMAGES_AT_ONCE = 64
TRIM_THRESHOLD, MMAP_THRESHOLD, MMAP_MAX = -1, -3, -4  # as <malloc.h> numbers what mallopt sets


class Arithmetic:
    """What `train_ch6`'s argument `precision` means on `device`.

    Attributes:
        device: `torch.device`.
        precision: "fp32", "tf32", "bf16" or "fp16": no longer "auto", and "tf32" on CUDA only.
        layout: memory format of the weights, which that of the activations follows.

    Raises:
        ValueError: `precision` is none of these and not "auto".
    """

    def __init__(self, precision, device):
        if precision not in (*AUTOCAST_DTYPES, "auto"):
            raise ValueError(
                f"precision must be one of {', '.join(AUTOCAST_DTYPES)} or auto, got {precision!r}"
            )
        self.device = device
        self.layout = torch.contiguous_format  # the reference's
        # Convolutions on CPUs and on tensor cores are faster with the channels innermost.
        if precision != "fp32" and device.type in ("cpu", "cuda"):
            self.layout = torch.channels_last
        if precision == "auto":
            precision = _fastest_precision(device)
        self.precision = "fp32" if precision == "tf32" and device.type != "cuda" else precision
        self._keeps_memory = device.type == "cpu" and platform.libc_ver()[0] == "glibc"

    def autocast(self):
        """The context in which the network's forward pass runs."""
        dtype = AUTOCAST_DTYPES[self.precision]
        return torch.autocast(self.device.type, dtype, enabled=dtype is not None)

    def images_at_once(self, net):
        """How many images of a batch go through `net` together in training."""
        in_parts = self.device.type == "cpu" and self.layout == torch.channels_last
        return IMAGES_AT_ONCE if in_parts and _images_are_independent(net) else math.inf

    def release_memory(self):
        """Give back what `applied_to` keeps, where tensors of other sizes would not fit into it."""
        if self._keeps_memory:
            ctypes.CDLL(None).malloc_trim(0)

    @contextlib.contextmanager
    def applied_to(self, net):
        """Training's memory layout and settings of the device, put back afterwards."""
        on_device = contextlib.nullcontext()
        if self.device.type == "cuda":
            on_device = _cuda_products(tf32=self.precision != "fp32")
        elif self._keeps_memory:
            on_device = _memory_kept()
        net.to(memory_format=self.layout)
        try:
            with on_device:
                yield
        finally:
            with contextlib.suppress(torch.OutOfMemoryError):  # the first one tells what to do
                net.to(memory_format=torch.contiguous_format)


def _fastest_precision(device):
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


@contextlib.contextmanager
def _memory_kept():
    """Have glibc keep freed memory meanwhile, for the tensors to come.

    A training step fills gigabytes of new tensors. Left to itself glibc returns each of them to the
    system as soon as it is freed, and the system clears all pages before it hands them out again,
    which takes up to a third of the step. Afterwards everything that is free goes back.
    """
    libc = ctypes.CDLL(None)
    libc.mallopt(MMAP_MAX, 0)  # no tensor in pages of its own, which go back at once
    libc.mallopt(TRIM_THRESHOLD, -1)
    try:
        yield
    finally:  # as glibc, which adapts itself, is after a large tensor or two
        libc.mallopt(MMAP_MAX, 1 << 16)
        libc.mallopt(MMAP_THRESHOLD, 32 << 20)
        libc.mallopt(TRIM_THRESHOLD, 64 << 20)
        libc.malloc_trim(0)
