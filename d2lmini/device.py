"""The device: its choice, its arithmetic and memory in training, and what it is and runs."""

import contextlib
import ctypes
import datetime
import html
import operator
import platform
import re
import shutil
import timeit
from importlib import metadata
from pathlib import Path

import torch

from d2lmini.network import lay_out

AUTOCAST_DTYPES = {"fp32": None, "tf32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
NVIDIA_CARDS = Path("/proc/driver/nvidia/gpus")  # Linux: a folder for each card
TRIM_THRESHOLD, MMAP_THRESHOLD, MMAP_MAX = -1, -3, -4  # as <malloc.h> numbers what mallopt sets
HAS_GLIBC = platform.libc_ver()[0] == "glibc"


def whole_number(name, value, low=1, wanted="a positive int"):
    """`value` as an int, whatever whole number it is; ValueError names the argument, `name`."""
    with contextlib.suppress(TypeError):
        is_bool = isinstance(value, bool) or str(getattr(value, "dtype", "")).endswith("bool")
        if not is_bool and low <= operator.index(value) < 2**63:
            return operator.index(value)
    raise ValueError(f"{name} must be {wanted}, got {value!r}")


def try_gpu(i=0):
    """Device cuda:i; without it, for i = 0, Apple's mps; else the CPU. ValueError below 0."""
    i = whole_number("i", i, low=0, wanted="the number of a GPU, an int from 0 on")
    if i < torch.cuda.device_count():
        return torch.device("cuda", i)
    return torch.device("mps" if i == 0 and torch.backends.mps.is_available() else "cpu")


def rng_state(device):
    """State of the random numbers that `device` draws, a uint8 tensor."""
    module = torch if device.type == "cpu" else getattr(torch, device.type)
    return module.get_rng_state(*([] if device.type == "cpu" else [device]))


class Precision:
    """The arithmetic of a training run: `train_ch6`'s argument `precision` on `device`.

    `dtype` is autocast's, None without it; `tf32`, whether CUDA multiplies fp32 numbers as TF32;
    `layout`, the memory format of the weights; a batch of more than `images_at_once` goes in parts.
    """

    def __init__(self, name, device):
        if name not in (*AUTOCAST_DTYPES, "auto"):
            raise ValueError(f"precision must be one of {[*AUTOCAST_DTYPES, 'auto']}, got {name!r}")
        self._asked = name = _fastest(device) if name == "auto" else name
        self.device, self.dtype, self.images_at_once = device, AUTOCAST_DTYPES[name], 2**31
        # TF32 wants tensor cores of capability 8.0. Without them, as on Colab's T4, the products
        # are fp32's, and channels_last would be slower than the reference's layout.
        on_cuda = device.type == "cuda"
        has_tf32 = on_cuda and torch.cuda.get_device_capability(device) >= (8, 0)
        self.tf32, on_cpu = name != "fp32" and has_tf32, name != "fp32" and device.type == "cpu"
        is_faster = on_cpu or self.tf32 or (on_cuda and self.dtype is not None)
        self.layout = torch.channels_last if is_faster else torch.contiguous_format

    @property
    def name(self):
        """What it comes to: "fp32", "fp32, channels last", "tf32", "bf16" or "fp16"."""
        plain = "fp32, channels last" if self.layout == torch.channels_last else "fp32"
        return self._asked if self.tf32 or self.dtype is not None else plain

    def autocast(self):
        """The context of a forward pass; casts kept within a reader's own autocast would stay."""
        enabled = self.dtype is not None
        return torch.autocast(self.device.type, self.dtype, enabled=enabled, cache_enabled=False)

    @contextlib.contextmanager
    def applied_to(self, net):
        """Training's memory layout, products and memory, put back afterwards."""
        with contextlib.ExitStack() as stack:
            if self.device.type == "cuda":
                _set_cuda_products(self.tf32, stack)
            stack.enter_context(memory_kept(self.device))
            stack.enter_context(torch.autocast(self.device.type, enabled=False))  # a reader's own
            stack.callback(lay_out, net, torch.contiguous_format)
            lay_out(net, self.layout)
            yield


def _fastest(device):
    if device.type == "cuda":
        with torch.cuda.device(device):
            return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    seconds = []  # many CPUs have no instructions for bf16
    for A in torch.ones(512, 512, dtype=torch.bfloat16), torch.ones(512, 512):
        seconds.append(min(timeit.repeat(lambda A=A: A @ A, number=1, repeat=5)))
    return "bf16" if device.type == "cpu" and seconds[0] < seconds[1] else "tf32"


def _set_cuda_products(tf32, stack):
    """Have CUDA multiply fp32 numbers in TF32 or in full, until the stack is left."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    owners = matmul, getattr(cudnn, "conv", None), getattr(cudnn, "rnn", None)
    older = [(matmul, "allow_tf32"), (cudnn, "allow_tf32"), (cudnn, "benchmark")]
    # The older names change what torch 2.9's newer ones say, too: the newer are put back last.
    for owner, name in [*((owner, "fp32_precision") for owner in owners), *older]:
        with contextlib.suppress(AttributeError, RuntimeError):
            stack.callback(setattr, owner, name, getattr(owner, name))
    matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark = tf32, tf32, True


@contextlib.contextmanager
def memory_kept(device):
    """Have glibc keep freed memory on a CPU: clearing pages anew takes a third of each step."""
    mallopt = ctypes.CDLL(None).mallopt if HAS_GLIBC and device.type == "cpu" else lambda *_: None
    mallopt(MMAP_MAX, 0)  # no tensor in pages of its own
    mallopt(TRIM_THRESHOLD, -1)  # and nothing goes back
    try:
        yield
    finally:  # as glibc, which adapts itself, is after a large tensor or two
        mallopt(MMAP_MAX, 1 << 16)
        mallopt(MMAP_THRESHOLD, 32 << 20)
        mallopt(TRIM_THRESHOLD, 64 << 20)
        trim_heap(device)


def trim_heap(device):
    """Give back what `memory_kept` keeps, where tensors of other sizes would not fit into it."""
    if HAS_GLIBC and device.type == "cpu":
        ctypes.CDLL(None).malloc_trim(0)


def cuda_missing():
    """A sentence where a torch without CUDA runs on a machine with an NVIDIA card, else ''."""
    # Linux is asked for cards, for there a container may have `nvidia-smi` and none, as Colab does.
    on_windows = platform.system() == "Windows" and shutil.which("nvidia-smi")
    if torch.version.cuda or torch.version.hip or not (NVIDIA_CARDS.is_dir() or on_windows):
        return ""
    return ("this machine has an NVIDIA GPU, but this torch has no CUDA to use it: "
            "https://pytorch.org/get-started/locally/ names the build that has it")  # fmt: skip


def environment():
    """What this notebook runs on: a mapping of name to text that shows itself as a table."""
    device, version = try_gpu(), "not installed"
    with contextlib.suppress(metadata.PackageNotFoundError):
        version = metadata.version("d2lmini")
    cuda = torch.version.cuda or f"ROCm {torch.version.hip}"  # AMD's cards call themselves cuda
    return _Table({
        "device": f"{device} ({device_name(device)})",
        "torch": torch.__version__,
        "CUDA": cuda if device.type == "cuda" else cuda_missing() or "not used",
        "OS": f"{platform.system()} {platform.release()} ({platform.machine()})",
        "Python": platform.python_version(),
        "date": datetime.date.today().isoformat(),
        "d2lmini": version,
    })  # fmt: skip


class _Table(dict):
    def __repr__(self):
        return "\n".join(f"{name:<7}  {text}" for name, text in self.items())

    def _repr_html_(self):
        rows = (f'<tr><th scope="row">{html.escape(name)}</th><td>{html.escape(text)}</td></tr>'
                for name, text in self.items())  # fmt: skip
        return f"<table>{''.join(rows)}</table>"


def device_name(device):
    """The name of the GPU, or of the processor and the number of threads torch uses on it."""
    device, threads = torch.device(device), torch.get_num_threads()
    if device.type != "cpu":
        return torch.cuda.get_device_name(device) if device.type == "cuda" else "Apple GPU"
    name = platform.processor() or platform.machine()
    with contextlib.suppress(OSError, TypeError):  # Linux does not fill platform.processor() in
        name = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())[1]
    return f"{name}, {threads} thread{'s' * (threads != 1)}"
