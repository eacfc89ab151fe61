"""This package against its reference, d2l 0.17.0, on each chapter's own network.

    python benchmarks/against_d2l.py --networks googlenet --batches 20 --output result.json

Both sides get the same networks (from the notebooks), the same data, batch size, device and number
of threads, and take turns for some rounds. Each turn is a process of its own, so that its peak
memory is its own. Numbers are medians over the rounds. benchmarks/README.md says what they mean.
"""

import argparse
import contextlib
import datetime
import gzip
import io
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tools import notebooks

with notebooks.exit_on_fault("against_d2l"):  # image size and learning rate of each chapter
    SETTINGS = {chapter.name: (chapter.side, chapter.lr) for chapter in notebooks.chapters()}
OPTIONS = ("batches", "batch_size", "device", "precision", "cuda_graph", "threads")  # of a side
SIDES = ("d2l", "d2lmini")
RATES = {
    "train_images_per_sec": "training",
    "test_images_per_sec": "evaluation",
    "loader_images_per_sec": "loader only",
}
COSTS = ("cpu_seconds_per_image", "peak_memory_bytes")


@notebooks.exit_on_fault("against_d2l")
def main():
    arguments = parse_arguments()
    if arguments.side:
        print(json.dumps(measure(arguments)))
        return
    results = []
    with tempfile.TemporaryDirectory() as folder:
        prepare_data(Path(folder))
        for name in arguments.networks:
            rounds = {side: [] for side in SIDES}
            for number in range(arguments.rounds):
                # The order changes from round to round: neither side always goes first.
                for side in SIDES if number % 2 == 0 else reversed(SIDES):
                    rounds[side].append(run_side(arguments, name, side, folder))
            environment = rounds["d2lmini"][0].pop("environment")
            results.append(summary(name, rounds))
            print_comparison(results[-1])
    report = {
        "date": datetime.date.today().isoformat(),
        "environment": environment,
        "settings": {key: getattr(arguments, key) for key in ("rounds", *OPTIONS)},
        "networks": results,
    }
    if arguments.output:
        Path(arguments.output).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", default=list(SETTINGS), choices=SETTINGS)
    parser.add_argument("--batches", type=int, default=20, help="of an epoch; at least 5")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3, help="each side's turns")
    parser.add_argument("--device", default=None, help="default: a GPU if there is one")
    parser.add_argument("--precision", default="tf32", help="of this package; see train_ch6")
    parser.add_argument("--cuda-graph", type=int, default=0, choices=(0, 1), help="the same")
    parser.add_argument("--threads", type=int, default=None, help="torch's, on a CPU")
    parser.add_argument("--output", help="JSON file for the results")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.batches < 5:
        parser.error("--batches must be at least 5: d2l's train_ch6 divides by batches // 5")
    return arguments


def prepare_data(folder):
    """Lay the data out as torchvision wants it, unpacked: then neither side needs a network.

    d2l reads ../data, so its working folder is folder/work; this package is given folder/data.
    """
    from d2lmini.data import find_files, load_data_fashion_mnist

    load_data_fashion_mnist(1)  # checks the files
    raw = folder / "data" / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    (folder / "work").mkdir()
    for name, source in find_files().items():
        packed, content = source.suffix == ".gz", source.read_bytes()
        content = gzip.decompress(content) if packed else content
        (raw / name.removesuffix(".gz")).write_bytes(content)
        if (source.parent / "MD5SUMS").is_file():  # a sample says so, and what it holds
            shutil.copy(source.parent / "MD5SUMS", raw)


def run_side(arguments, name, side, folder):
    """One side's turn, in a process of its own."""
    program = [sys.executable, "-W", "ignore", str(Path(__file__).resolve())]
    command = [*program, "--side", side, "--networks", name]
    for key in OPTIONS:
        if getattr(arguments, key) is not None:
            command += [f"--{key.replace('_', '-')}", str(getattr(arguments, key))]
    environment = {**os.environ, "D2LMINI_DATA": str(Path(folder, "data")), "MPLBACKEND": "Agg"}
    # Into a file: a pipe that nobody reads meanwhile holds 64 KB, then the child waits for ever.
    with tempfile.TemporaryFile("w+", encoding="utf-8") as printed:
        process = subprocess.Popen(
            command, cwd=Path(folder, "work"), env=environment, stdout=printed
        )
        peak = peak_memory(process)
        if process.returncode != 0:
            sys.exit(f"{side} on {name} ended with exit code {process.returncode}")
        printed.seek(0)
        return {"peak_memory_bytes": peak, **json.loads(printed.read().splitlines()[-1])}


def peak_memory(process):
    """Bytes that a process and its workers held at most while it ran, looked at every half second.

    What they share counts once (proportional set size, on Linux; elsewhere once for each).
    """
    peak = 0
    while True:
        try:
            process.wait(timeout=0.5)
            return peak
        except subprocess.TimeoutExpired:
            peak = max(peak, sum(map(held_memory, process_tree(process.pid))))


def process_tree(pid):
    try:
        parent = psutil.Process(pid)
        return [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def held_memory(process):
    try:
        memory = process.memory_full_info()
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return 0
    return getattr(memory, "pss", memory.rss)


def measure(arguments):
    """Run in the side's own process: its rates, its peak memory, its results."""
    import torch

    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    (name,) = arguments.networks
    side, lr = SETTINGS[name]
    own = arguments.side == "d2lmini"
    package = load_package(own)
    from d2lmini.device import device_name, try_gpu

    device = torch.device(arguments.device) if arguments.device else try_gpu()
    torch.manual_seed(0)
    net = notebooks.network_namespace(name)["net"]
    num_images = arguments.batches * arguments.batch_size
    train_iter, test_iter = (
        first_images(data_iter, num_images)
        for data_iter in package.load_data_fashion_mnist(arguments.batch_size, resize=side)
    )

    def timed(action):
        synchronize(device)
        started = time.perf_counter()
        result = action()
        synchronize(device)
        return result, time.perf_counter() - started

    options = {"seed": 0, "precision": arguments.precision, "cuda_graph": arguments.cuda_graph}
    options = options if own else {}
    evaluations = []  # of each side's trainer: seconds, to be taken from the whole
    module = sys.modules["d2lmini.train" if own else "d2l.torch"]
    evaluation = "evaluate" if own else "evaluate_accuracy_gpu"
    original = getattr(module, evaluation)

    def evaluate(*args, **kwargs):
        accuracy, seconds = timed(lambda: original(*args, **kwargs))
        evaluations.append(seconds)
        return accuracy

    setattr(module, evaluation, evaluate)
    with contextlib.redirect_stdout(io.StringIO()):
        # Libraries load and algorithms are chosen outside the measurement, on five batches; on a
        # CPU nothing depends on their size, so small ones will do.
        size = arguments.batch_size if device.type == "cuda" else 4
        warm_up = [(torch.rand(size, 1, side, side), torch.arange(size) % 10)] * 5
        package.train_ch6(net, warm_up, warm_up[:1], 1, lr, device, **options)
        evaluations.clear()
        cpu_seconds = -cpu_time()
        history, seconds = timed(
            lambda: package.train_ch6(net, train_iter, test_iter, 1, lr, device, **options)
        )
    cpu_seconds += cpu_time()
    if own and history.stopped:
        sys.exit(f"d2lmini on {name}: {history.stopped}")
    (test_seconds,) = evaluations
    device_memory = {}
    if device.type == "cuda":
        device_memory["peak_memory_bytes"] = torch.cuda.max_memory_allocated(device)

    loader = train_iter.to(device) if own else train_iter
    num_train, loader_seconds = timed(lambda: count_images(loader, device))
    num_test = len(test_iter.labels if own else test_iter.dataset)
    return {
        "train_images_per_sec": num_train / (seconds - test_seconds),
        "test_images_per_sec": num_test / test_seconds,
        "loader_images_per_sec": num_train / loader_seconds,
        "cpu_seconds_per_image": cpu_seconds / (num_train + num_test),
        **device_memory,
        "load average": os.getloadavg()[0],
        "environment": {
            "device": f"{device} ({device_name(device)})",
            "torch": torch.__version__,
            "torchvision": metadata.version("torchvision"),
            "CUDA": torch.version.cuda if device.type == "cuda" else None,
            "d2l": metadata.version("d2l"),
            "Python": platform.python_version(),
        },
    }


def cpu_time():
    """Seconds of processor time of this process and of its workers that have ended."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def synchronize(device):
    """Wait until a GPU has done all that was asked of it, so that the clock tells the truth."""
    import torch

    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def count_images(loader, device):
    """Go over a loader, bringing its batches to the device; the number of images."""
    count = 0
    for X, y in loader:
        X, y = X.to(device), y.to(device)
        count += len(y)
    return count


def load_package(own):
    if own:
        import d2lmini

        return d2lmini
    from IPython import display

    # d2l 0.17.0 calls a function that IPython no longer has, and would show every plot.
    display.set_matplotlib_formats = lambda *formats: None
    from d2l import torch as reference

    return reference


def first_images(data_iter, count):
    """An iterator as the given one, of either side, over its first `count` images."""
    if hasattr(data_iter, "labels"):  # this package's
        data_iter.images, data_iter.labels = data_iter.images[:count], data_iter.labels[:count]
        return data_iter
    from torch.utils.data import DataLoader, RandomSampler, Subset

    return DataLoader(
        Subset(data_iter.dataset, range(min(count, len(data_iter.dataset)))),
        data_iter.batch_size,
        shuffle=isinstance(data_iter.sampler, RandomSampler),
        num_workers=data_iter.num_workers,
    )


def summary(name, rounds):
    """Medians and single values of both sides, and the ratios d2lmini / d2l."""
    result = {"network": name, "image size": SETTINGS[name][0]}
    for side in SIDES:
        result[side] = {
            key: {"median": statistics.median(values), "rounds": values}
            for key in (*RATES, *COSTS)
            for values in [[turn[key] for turn in rounds[side]]]
        }
        result[side]["load average"] = [turn["load average"] for turn in rounds[side]]
    result["ratios"] = {
        key: result["d2lmini"][key]["median"] / result["d2l"][key]["median"]
        for key in (*RATES, *COSTS)
    }
    return result


def print_comparison(result):
    print(f"{result['network']}, {result['image size']} px")
    for key, label in RATES.items():
        reference, own = (result[side][key]["median"] for side in SIDES)
        print(f"  {label:<12} d2l {reference:9.1f}  d2lmini {own:9.1f} images/s  "
              f"{result['ratios'][key]:.2f}x")  # fmt: skip
    reference, own = (1000 * result[side]["cpu_seconds_per_image"]["median"] for side in SIDES)
    print(f"  CPU time     d2l {reference:9.1f}  d2lmini {own:9.1f} ms an image")
    reference, own = (result[side]["peak_memory_bytes"]["median"] / 2**20 for side in SIDES)
    print(f"  peak memory  d2l {reference:9.0f}  d2lmini {own:9.0f} MiB", flush=True)


if __name__ == "__main__":
    main()
