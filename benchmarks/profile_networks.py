"""What limits each network: its achieved FLOP/s against the machine's measured matrix products.

    python benchmarks/profile_networks.py --networks googlenet --batch-size 32

For each network one step of train_ch6 (forward, backward, SGD) on `--batch-size` random images is
profiled after three unprofiled ones: with precision="fp32", the reference's arithmetic and memory
layout, and with the default.
"""

import argparse
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

from d2lmini.device import device_name, memory_kept, try_gpu  # noqa: E402
from d2lmini.metrics import Accumulator  # noqa: E402
from d2lmini.precision import Precision  # noqa: E402
from d2lmini.train import TrainingRun, init_xavier  # noqa: E402
from tools import notebooks  # noqa: E402


@notebooks.exit_on_fault("profile_networks")
def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", default=list(SETTINGS), choices=SETTINGS)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--device", default=None, help="default: a GPU if there is one")
    parser.add_argument("--rows", type=int, default=6, help="operators listed for each network")
    arguments = parser.parse_args()
    device = torch.device(arguments.device) if arguments.device else try_gpu()
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
    precision = Precision(precision, device)
    run = TrainingRun(net.to(device), [(X, y)], [(X, y)], 1, lr, precision, seed=None)
    net.apply(init_xavier).train()

    def step():
        run.step(X, y, Accumulator(3), is_first=False)

    activities = [ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    with memory_kept(device), precision.applied_to(net):
        with FlopCounterMode(display=False) as counter:
            step()
        seconds = min(seconds_of(step, device) for _ in range(2))
        with profile(activities=activities) as profiler:
            seconds_of(step, device)

    def own_time(event):
        return event.self_device_time_total if device.type == "cuda" else event.self_cpu_time_total

    events = sorted(profiler.key_averages(), key=own_time, reverse=True)
    return counter.get_total_flops(), seconds, [(event.key, own_time(event)) for event in events]


def seconds_of(action, device):
    synchronize(device)
    started = time.perf_counter()
    action()
    synchronize(device)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
