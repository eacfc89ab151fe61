"""What limits each network: its achieved FLOP/s against the machine's measured matrix products.

    python benchmarks/profile_networks.py --networks googlenet --batch-size 32

For each network train_ch6 trains on one batch of `--batch-size` random images, an epoch a step, and
runs of one and of two steps tell what a step costs (the evaluation of one image with it): with
precision="fp32", the reference's arithmetic and memory layout, and with the default.
"""

import argparse
import contextlib
import io
import sys
import time
from pathlib import Path

import torch
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
sys.path.insert(0, str(ROOT / "benchmarks"))

from against_d2l import SETTINGS, synchronize  # noqa: E402

import d2lmini as d2l  # noqa: E402
from d2lmini.device import device_name  # noqa: E402
from tools import notebooks  # noqa: E402


@notebooks.exit_on_fault("profile_networks")
def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", default=list(SETTINGS), choices=SETTINGS)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--device", default=None, help="default: a GPU if there is one")
    parser.add_argument("--rows", type=int, default=6, help="operators listed for each network")
    arguments = parser.parse_args()
    device = torch.device(arguments.device) if arguments.device else d2l.try_gpu()
    print(f"{device} ({device_name(device)}), torch {torch.__version__}")
    for name in arguments.networks:
        for precision in ("fp32", "tf32"):
            report(name, precision, device, arguments)


def report(name, precision, device, arguments):
    peak = matmul_rate(device)  # anew each time: the machine may have other work
    flops, seconds, operators = profile_step(name, arguments.batch_size, device, precision)
    print(
        f"{name}, precision={precision}: {arguments.batch_size / seconds:.1f} images/s in the step "
        f"alone, {flops / arguments.batch_size / 1e9:.2f} GFLOP an image and step, "
        f"{flops / seconds / 1e9:.0f} GFLOP/s = {flops / seconds / peak:.0%} of the "
        f"{peak / 1e9:.0f} GFLOP/s of matrix products"
    )
    total = sum(own_time for _, own_time in operators)
    for operator, own_time in operators[: arguments.rows]:
        print(f"  {own_time / total:4.0%}  {operator}")
    sys.stdout.flush()


def matmul_rate(device, size=None, repeats=5):
    """FLOP/s of the best of some float32 matrix products, plain ones and 1x1 convolutions.

    On a CPU the two come from different libraries: on AMD's, MKL's product may reach less than half
    of what oneDNN's convolution does, which is the same product with a row for each pixel.
    """
    size = size or (8192 if device.type == "cuda" else 1536)
    side = 64 if device.type == "cuda" else 32
    A, B = torch.rand(2, size, size, device=device)
    X = torch.rand(4, 1024, side, side, device=device).to(memory_format=torch.channels_last)
    kernel = torch.rand(1024, 1024, 1, 1, device=device)

    def rate(action, flops):
        return flops / min(seconds_of(action, device) for _ in range(repeats + 1))

    with torch.no_grad():
        return max(
            rate(lambda: A @ B, 2 * size**3),
            rate(lambda: F.conv2d(X, kernel), 2 * 4 * side**2 * 1024**2),
        )


def profile_step(name, batch_size, device, precision):
    """FLOPs and seconds of a training step, and the operators by the time spent in themselves."""
    side, lr = SETTINGS[name]
    X = torch.rand(batch_size, 1, side, side, device=device)
    y = torch.arange(batch_size, device=device) % 10
    net = notebooks.network_namespace(name)["net"]

    def train(num_steps):
        with contextlib.redirect_stdout(io.StringIO()):
            return d2l.train_ch6(net, [(X, y)], [(X[:1], y[:1])], num_steps, lr, device,
                                 precision=precision)  # fmt: skip

    def flops(num_steps):
        with FlopCounterMode(display=False) as counter:
            train(num_steps)
        return counter.get_total_flops()

    def own_times(num_steps):
        activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (device.type == "cuda")
        with profile(activities=activities) as profiler:
            train(num_steps)
        on_cuda = device.type == "cuda"
        return {
            event.key: event.self_device_time_total if on_cuda else event.self_cpu_time_total
            for event in profiler.key_averages()
        }

    # What comes before the first step is no part of it.
    seconds = min(train(3).train_seconds[1:])
    first, both = own_times(1), own_times(2)
    operators = [(key, time - first.get(key, 0)) for key, time in both.items()]
    operators = sorted(((key, time) for key, time in operators if time > 0), key=lambda o: -o[1])
    return flops(2) - flops(1), seconds, operators


def seconds_of(action, device):
    synchronize(device)
    started = time.perf_counter()
    action()
    synchronize(device)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
