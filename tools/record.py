"""Run chapters from top to bottom and write what their cells printed back into them.

    python tools/record.py chapters/vgg.ipynb               full training, on the best device here
    python tools/record.py --skip-training chapters/*.ipynb everything but training and its results

A full recording stores what ran in the notebook's metadata (`d2lmini`) and the history of each
seed in recordings/NAME.json. Nothing is written when a cell fails, writes to stderr, or when
training ends early; nor, for a full recording, when the code it uses has uncommitted changes.
"""

import argparse
import datetime
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nbclient
import nbformat
from nbclient.util import run_sync

sys.path.insert(0, str(Path(__file__).parents[1]))
from tools import notebooks

RECORDINGS = notebooks.ROOT / "recordings"

# Runs in the kernel before the first cell and leaves no output. The cells stay as the reader sees
# them; seed, checkpoint and precision reach the trainer from here, and its history comes back.
HOOK = """
import dataclasses, functools, json, d2lmini
def _recording(train_ch6, options, target):
    @functools.wraps(train_ch6)
    def recorded(*args, **kwargs):
        history = train_ch6(*args, **{{**kwargs, **options}})
        result = dataclasses.asdict(history) | {{'examples_per_sec': history.examples_per_sec}}
        with open(target, 'w') as file:
            json.dump(result, file)
        return history
    return recorded
d2lmini.train_ch6 = _recording(d2lmini.train_ch6, {options!r}, {target!r})
from d2lmini.device import device_name as _name
import torch as _torch
with open({target!r} + '.machine', 'w') as _file:
    _device = d2lmini.try_gpu()
    json.dump({{'device': str(_device), 'device_name': _name(_device),
               'torch': _torch.__version__, 'cuda': _torch.version.cuda}}, _file)
del _recording, _name, _torch, _file, _device
"""


def run(notebook, leave_out, options):
    """Execute the code cells whose tags do not meet `leave_out`, in a fresh kernel.

    Outputs and counts go into `notebook`; cells left out keep theirs. Returns the training history
    (None when nothing was trained) and a dict that tells the machine.
    """
    with tempfile.TemporaryDirectory() as folder:
        target = str(Path(folder) / "history.json")
        client = nbclient.NotebookClient(
            notebook,
            timeout=None,
            kernel_name="python3",
            record_timing=False,
            resources={"metadata": {"path": str(notebooks.ROOT / "chapters")}},
        )
        with client.setup_kernel():
            hook = HOOK.format(options=options, target=target)
            reply = run_sync(client.kc.execute_interactive)(hook, silent=True, store_history=False)
            if reply["content"]["status"] != "ok":
                raise SystemExit(
                    f"record: the kernel cannot use d2lmini: {reply['content']['evalue']}"
                )
            for index, cell in enumerate(notebook.cells):
                if cell.cell_type == "code" and not notebooks.tags(cell) & leave_out:
                    if notebooks.tags(cell) & {"net", "training"} and "seed" in options:
                        # Each on its own, so that other cells do not change a record's weights.
                        seeding = f"import torch\ntorch.manual_seed({options['seed']})"
                        run_sync(client.kc.execute_interactive)(
                            seeding, silent=True, store_history=False
                        )
                    client.execute_cell(cell, index)
        machine = json.loads(Path(target + ".machine").read_text())
        history = json.loads(Path(target).read_text()) if Path(target).exists() else None
    return history, machine


def check(notebook, name):
    """Refuse outputs that must not be published."""
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            if output.output_type == "stream" and output.name == "stderr":
                raise SystemExit(f"record: {name}, cell {cell.id} wrote to stderr: {output.text}")


def tidy(notebook):
    """Number the cells that ran 1, 2, ... and drop what differs from machine to machine."""
    count = 0
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        cell.metadata.pop("execution", None)
        cell.outputs = list(merge_streams(cell.outputs))
        if cell.execution_count is not None:
            count += 1
            cell.execution_count = count
        for output in cell.outputs:
            if output.output_type == "execute_result":
                output.execution_count = cell.execution_count
            output.pop("transient", None)
    notebook.metadata.pop("widgets", None)
    notebook.metadata.language_info = {"name": "python"}


def merge_streams(outputs):
    """Join what was printed in pieces; a figure in between keeps its place."""
    previous = None
    for output in outputs:
        if previous and output.output_type == "stream" and output.name == previous.get("name"):
            previous.text += output.text
            continue
        yield output
        previous = output


def record(path, args):
    """Record one chapter."""
    name = Path(path).stem
    if name not in (names := notebooks.names()):
        raise SystemExit(f"record: {path} is none of the chapters {', '.join(names)}")
    notebooks.chapter(name)  # a fault is told now, not after hours of training
    notebook = notebooks.read(name)
    code_hash = notebooks.code_hash(notebook)
    if args.skip_training:
        leave_out = {"training", "trained"}
        if notebook.metadata.get("d2lmini", {}).get("code_hash") != code_hash:
            notebook.metadata.pop("d2lmini", None)  # a record of other code is no record
            for cell in notebook.cells:
                if notebooks.tags(cell) & {"training", "trained"}:
                    cell.outputs, cell.execution_count = [], None
        run(notebook, leave_out, {})
        check(notebook, name)
    else:
        record_training(notebook, name, code_hash, args)
    tidy(notebook)
    nbformat.write(notebook, notebooks.path(name))
    print(f"record: wrote {notebooks.path(name)}")


def record_training(notebook, name, code_hash, args):
    """Run everything, train once more for each further seed, and store the histories."""
    commit = clean_commit(name)
    histories = []
    started, clock = datetime.datetime.now(datetime.timezone.utc), time.perf_counter()
    for seed in range(args.seed, args.seed + args.seeds):
        options = {"seed": seed, "precision": args.precision}
        if args.checkpoint_dir:
            folder = Path(args.checkpoint_dir).resolve()
            options["checkpoint"] = str(folder / f"{name}-{args.precision}-{seed}.pt")
        if not histories:
            history, machine = run(notebook, set(), options)
            wall_seconds = time.perf_counter() - clock
        else:  # the chapter shows the first seed; of the others only the history is kept
            history, _ = run(notebooks.read(name), {"trained"}, options)
        if history is None or history["stopped"]:
            reason = history["stopped"] if history else "no cell called d2l.train_ch6"
            raise SystemExit(f"record: {name}, seed {seed}: nothing is saved: {reason}")
        histories.append(history)
    first = histories[0]
    notebook.metadata["d2lmini"] = {
        **machine,
        "commit": commit,
        "started": started.isoformat(timespec="seconds"),
        "wall_seconds": round(wall_seconds, 1),
        "training_seconds": round(sum(first["train_seconds"]) + sum(first["test_seconds"]), 1),
        **{key: first[key] for key in ("seed", "precision", "examples_per_sec")},
        **{key: first[key][-1] for key in ("train_loss", "train_acc", "test_acc")},
        "code_hash": code_hash,
    }
    check(notebook, name)
    RECORDINGS.mkdir(exist_ok=True)
    content = {"record": notebook.metadata["d2lmini"], "histories": histories}
    (RECORDINGS / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n")


def clean_commit(name):
    """The commit whose code is about to run; refuse when the code is not that commit's."""
    git = ["git", "-C", str(notebooks.ROOT)]
    changed = subprocess.check_output([*git, "status", "--porcelain", "--", "d2lmini"], text=True)
    try:
        notebook_path = notebooks.path(name).relative_to(notebooks.ROOT).as_posix()
        committed = subprocess.check_output([*git, "show", f"HEAD:{notebook_path}"], text=True)
    except subprocess.CalledProcessError as error:
        raise SystemExit(f"record: commit {notebooks.path(name)} before recording it") from error
    committed = nbformat.reads(committed, as_version=4)
    if changed or notebooks.code_hash(committed) != notebooks.code_hash(notebooks.read(name)):
        raise SystemExit(
            f"record: uncommitted changes in {changed.split() or notebook_path}; commit them, so "
            "that the record can say which code ran"
        )
    return subprocess.check_output([*git, "rev-parse", "HEAD"], text=True).strip()


@notebooks.exit_on_fault("record")
def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("notebooks", nargs="+", metavar="chapters/NAME.ipynb")
    parser.add_argument("--skip-training", action="store_true", help="run all cells but training's")
    parser.add_argument("--seed", type=int, default=0, help="the first seed")
    parser.add_argument("--seeds", type=int, default=1, help="how many seeds to train")
    parser.add_argument("--precision", default="tf32", help="see d2lmini.train_ch6")
    parser.add_argument("--checkpoint-dir", help="where an interrupted recording goes on from")
    args = parser.parse_args(argv)
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for path in args.notebooks:
        record(path, args)


if __name__ == "__main__":
    main()
