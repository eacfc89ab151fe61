"""How NiN starts, over seeds: when its loss leaves ln 10, and how often it dies.

    python benchmarks/nin_starts.py --seeds 10 --epochs 2 --output nin-starts.json

Trains the chapter's network with the chapter's settings, one seed after another, on the best device
present: minutes on a GPU, half an hour an epoch on two CPU cores. The file is written after every
seed, and a run that was cut off goes on after the last one.
"""

import argparse
import contextlib
import io
import json
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import d2lmini as d2l
from benchmarks.against_d2l import SETTINGS
from d2lmini.device import device_name
from tools import notebooks

# Mean loss since the epoch began, below which the network has left ln 10 = 2.303. It is looked at
# five times an epoch, as often as train_ch6 keeps it.
STARTED = 2.2


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=10, help="so many, from 0 on")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--output", type=Path, default=Path("nin-starts.json"))
    arguments = parser.parse_args(argv)

    device = d2l.try_gpu()
    settings = {
        "device": f"{device} ({device_name(device)})",
        "torch": torch.__version__,
        "epochs": arguments.epochs,
        "batch_size": arguments.batch_size,
    }
    runs = []
    if arguments.output.exists():
        found = json.loads(arguments.output.read_text("utf-8"))
        runs = found.pop("runs")
        if found != settings:
            sys.exit(f"{arguments.output} holds runs of other settings: {found}; name another file")
    for seed in range(len(runs), arguments.seeds):
        runs.append(first_epochs(seed, arguments, device))
        content = json.dumps({**settings, "runs": runs}, indent=1) + "\n"
        arguments.output.write_text(content, encoding="utf-8")
        print(describe(runs[-1]), flush=True)
    print(summary(runs))


def first_epochs(seed, arguments, device):
    """Train one seed; what became of it, and the points of its curve (epoch, loss, accuracy)."""
    side, lr = SETTINGS["nin"]
    torch.manual_seed(seed)
    net = notebooks.network_namespace("nin")["net"]
    train_iter, test_iter = d2l.load_data_fashion_mnist(arguments.batch_size, resize=side)
    with contextlib.redirect_stdout(io.StringIO()):
        history = d2l.train_ch6(net, train_iter, test_iter, arguments.epochs, lr, device, seed=seed)
    curve = [point[:3] for point in history.curve]
    started = next((epoch for epoch, loss, _ in curve if loss < STARTED), None)
    return {"seed": seed, "started": started, "died": history.stopped, "curve": curve}


def describe(run):
    if run["died"]:
        return f"seed {run['seed']}: {run['died']}"
    epoch, loss, accuracy = run["curve"][-1]
    when = "has not started" if run["started"] is None else f"started by epoch {run['started']:.1f}"
    return f"seed {run['seed']}: {when}; at {epoch:.0f} loss {loss:.3f}, train acc {accuracy:.3f}"


def summary(runs):
    died = sum(run["died"] is not None for run in runs)
    first = sum(run["started"] is not None and run["started"] <= 1 for run in runs)
    later = sum(run["started"] is not None and run["started"] > 1 for run in runs)
    neither = sum(run["started"] is None and run["died"] is None for run in runs)
    return (
        f"{len(runs)} seeds: {first} started in the first epoch, {later} later, {died} died, "
        f"{neither} neither"
    )


if __name__ == "__main__":
    main()
