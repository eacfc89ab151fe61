"""Run chapters from top to bottom and write what their cells printed back into them.

    python -m tools.record --skip-training chapters/*.ipynb          all but the training
    python -m tools.record --folder ~/runs chapters/vgg.ipynb        with its full training
    python -m tools.record --from-weights ~/runs chapters/vgg.ipynb  what follows it, once more
    python -m tools.record --take ~/runs chapters/vgg.ipynb          what another clone recorded

A full recording goes into FOLDER/NAME as it runs: a checkpoint after each epoch, with the whole
weights; recording.json with the history of each seed and the outputs by cell. The same command goes
on where an earlier one was cut off. What is complete is taken into the notebook as it is by then,
into recordings/NAME.json and, where they are few, rounded weights into recordings/weights/.
"""

import argparse
from pathlib import Path

import nbformat

from tools import code_hash, files, notebooks, runs

RESULTS = {"training", "trained"}  # tags of cells whose outputs belong to the record
FOLDER = ".recordings"  # below the root; git does not see it


def paths(name):
    """The files that a record of a chapter is kept in: its JSON and its rounded weights."""
    folder = notebooks.ROOT / "recordings"
    return folder / f"{name}.json", folder / "weights" / f"{name}.bin"


# --- everything but the training ------------------------------------------------------------------


def skip_training(name, drop):
    """Run all cells but those that train or need a trained network."""
    notebook = notebooks.read(name)
    training, trained = stale(notebook, name)
    dropped = training + trained
    if dropped and not drop:
        raise notebooks.ChapterError(
            f"chapters/{name}.ipynb: its record is of other code, cell {', '.join(dropped)} "
            "differs; undo that or record anew (--drop drops what was recorded with other code)"
        )
    ran = {}
    with runs.Kernel(notebook) as kernel:
        for cell in notebooks.code_cells(notebook):
            if not notebooks.tags(cell) & RESULTS:
                kernel.run(cell)
                ran[cell.id] = cell
    check_outputs(name, {cell.id: cell.outputs for cell in ran.values()})
    current = notebooks.read(name)  # which may have been edited meanwhile
    results = notebooks.code_cells(current, *RESULTS)
    if dropped and stale(current, name)[0]:  # without its training nothing of the record holds
        del current.metadata["d2lmini"]
        dropped = [cell.id for cell in results]
    for cell in notebooks.code_cells(current):
        if cell in results and cell.id in dropped:
            cell.outputs, cell.execution_count = [], None
        elif cell.id in ran and cell.source == ran[cell.id].source:
            cell.outputs, cell.execution_count = ran[cell.id].outputs, 0
        elif cell.id in ran:
            print(f"record: cell {cell.id} was edited meanwhile, its output is not; run this again")
    write(name, current)


def stale(notebook, name):
    """`differing` of a notebook and its own record; nothing where it has none."""
    recorded = notebook.metadata.get("d2lmini", {}).get("code")
    return differing(recorded, code_hash.training_code(notebook, name)) if recorded else ([], [])


def differing(recorded, now):
    """The cells whose code is not a record's: those of its training, and those of tag `trained`."""
    training = []
    if recorded["training"] != now["training"]:  # by their order alone, where no cell differs
        training = code_hash.differing(recorded["cells"], now["cells"]) or list(now["cells"])
    return training, code_hash.differing(recorded["trained"], now["trained"])


# --- a full recording -----------------------------------------------------------------------------


def record(name, folder, args):
    """Record a chapter's training in a folder, or what is left of it, and take it from there."""
    notebook = notebooks.read(name)
    code = code_hash.training_code(notebook, name)
    notebooks.chapter(name)  # a fault is told now, not after hours of training
    (cell,) = notebooks.code_cells(notebook, "training")
    if (calls := cell.source.count("train_ch6(")) != 1:
        raise notebooks.ChapterError(
            f"chapters/{name}.ipynb: the cell tagged training calls d2l.train_ch6 {calls} times; a "
            "record is of one call"
        )
    begun = runs.begun(name, lambda committed: code_hash.training_code(committed, name))
    with runs.alone(folder / name / "lock"):
        state = state_of(folder / name, code, begun, args)
        for number, seed in enumerate(range(args.seed, args.seed + args.seeds)):
            if number >= len(state["histories"]):
                train(name, folder / name, notebook, state, seed)
            elif number == 0 and (args.from_weights or state["code"]["trained"] != code["trained"]):
                train(name, folder / name, notebook, state, seed, done=state["histories"][0])
        take(name, folder)


def state_of(folder, code, begun, args):
    """The state of a recording, as recording.json holds it: of an earlier run, or a new one."""
    options = {"seed": args.seed, "precision": args.precision}
    state = files.read_json(folder / "recording.json")
    if state is None and args.from_weights:
        raise notebooks.ChapterError(f"{folder} holds no recording")
    if state is None:
        return {"code": {**code, "trained": {}}, "options": options, **begun,
                "machine": None, "histories": [], "outputs": {}}  # fmt: skip
    if cells := ", ".join(differing(state["code"], code)[0]):
        raise notebooks.ChapterError(
            f"{folder} holds a training of other code, cell {cells} differs; name another folder"
        )
    if args.from_weights:
        args.seed, args.seeds = state["options"]["seed"], len(state["histories"])
    elif len(state["histories"]) < args.seeds and (
        state["options"] != options or state["commit"] != begun["commit"]
    ):
        raise notebooks.ChapterError(
            f"{folder} holds a training of commit {state['commit'][:7]} with {state['options']}; "
            "go on with these, or name another folder"
        )
    return state


def train(name, folder, notebook, state, seed, done=None):
    """Run a chapter with one seed; into `state` and its file goes what comes of it, as it comes.

    done: the history of a training whose weights are in the folder: only what follows it runs anew.
    The chapter shows the first seed; of the others only the history is kept.
    """
    first = seed == state["options"]["seed"]
    trained = code_hash.training_code(notebook, name)["trained"]
    notebook = nbformat.from_dict(notebook)
    checkpoint = folder / f"{seed}.pt"
    options = {**state["options"], "seed": seed, "checkpoint": str(checkpoint)}
    with runs.Kernel(notebook) as kernel:
        for cell in notebooks.code_cells(notebook):
            tags = notebooks.tags(cell)
            if "trained" in tags and not first:
                continue
            if "training" in tags:
                weights = str(folder / "weights.bin") if first else None
                instead = [str(checkpoint), done] if done else None
                kernel.call("watch", seed, None if done else options, instead, weights)
            elif "net" in tags:
                kernel.call("watch", seed)
            kernel.run(cell)
            if "training" in tags:
                (history,) = kernel.call("collected")[0]
                kernel.call("watch", None)
                if history["stopped"]:
                    files.write_json(folder / f"stopped-{seed}.json", history)
                    raise notebooks.ChapterError(
                        f"{name}, seed {seed}: the training is not recorded: {history['stopped']}"
                    )
                if not done:
                    state["machine"] = kernel.machine
                    state["histories"].append(history)
            if "trained" in tags or ("training" in tags and first and not done):
                state["outputs"][cell.id] = cell.outputs
            if "trained" in tags:
                state["code"]["trained"][cell.id] = trained[cell.id]
            if tags & RESULTS:
                files.write_json(folder / "recording.json", state)


# --- into the notebook ----------------------------------------------------------------------------


def take(name, folder):
    """Put what a folder holds of a chapter into today's notebook and recordings."""
    folder = folder / name
    state = files.read_json(folder / "recording.json")
    if not state or not state["histories"]:
        raise notebooks.ChapterError(f"{folder} holds no whole training")
    notebook = notebooks.read(name)
    now = code_hash.training_code(notebook, name)
    results = notebooks.code_cells(notebook, *RESULTS)
    other, other_trained = differing(state["code"], now)
    # What the folder holds of a cell that is gone is left there.
    other += [cell.id for cell in results
              if cell.id in other_trained or cell.id not in state["outputs"]]  # fmt: skip
    if other:
        raise notebooks.ChapterError(
            f"{folder} holds what other code gave, cell {', '.join(other)} differs from "
            f"chapters/{name}.ipynb; where that is no part of the training, run --from-weights"
        )
    check_outputs(name, state["outputs"], str(folder))
    json_path, weights_path = paths(name)
    first = state["histories"][0]
    seconds = sum(first["train_seconds"])
    record = {
        **state["machine"],
        **{key: state[key] for key in ("commit", "started")},
        **{key: first[key] for key in ("seed", "precision")},
        "training_seconds": round(seconds + sum(first["test_seconds"]), 1),
        "cpu_seconds": round(sum(first["cpu_seconds"]), 1),
        "examples_per_sec": first["num_samples"] * len(first["train_seconds"]) / seconds,
        **{key: first[key][-1] for key in ("train_loss", "train_acc", "test_acc")},
        "code": now,
    }
    if rounded := files.read_json(folder / "weights.json"):
        files.write_whole(weights_path, (folder / "weights.bin").read_bytes())
        record["rounded"] = rounded
    notebook.metadata["d2lmini"] = record
    files.write_json(json_path, {"record": record, "histories": state["histories"]})
    for cell in results:
        cell.outputs = nbformat.from_dict(state["outputs"][cell.id])
        cell.execution_count = 0
    write(name, notebook)


def check_outputs(name, outputs, *private):
    """Refuse outputs, by cell id, that must not be published: warnings, paths of this machine."""
    for cell, of_cell in outputs.items():
        for output in of_cell:
            if output.get("name") == "stderr":
                raise notebooks.ChapterError(
                    f"{name}, cell {cell} wrote to stderr: {output['text']}"
                )
            found = [path for path in (*private, str(notebooks.ROOT)) if path in str(output)]
            if found:
                raise notebooks.ChapterError(f"{name}, cell {cell} shows a path: {found[0]}")


def write(name, notebook):
    """Write a notebook, the cells that ran numbered 1, 2, ..."""
    ran = [cell for cell in notebooks.code_cells(notebook) if cell.execution_count is not None]
    for count, cell in enumerate(ran, start=1):
        cell.execution_count = count
        for output in cell.outputs:
            if output.output_type == "execute_result":
                output.execution_count = count
    notebook.metadata.pop("widgets", None)
    notebook.metadata.language_info = notebooks.LANGUAGE  # editors write their own
    notebook.metadata.kernelspec = notebooks.KERNEL
    files.write_whole(notebooks.path(name), files.notebook_text(notebook))
    print(f"record: wrote {notebooks.path(name)}")


@notebooks.exit_on_fault("record")
def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("notebooks", nargs="+", type=Path, metavar="chapters/NAME.ipynb")
    parser.add_argument("--skip-training", action="store_true", help="run all cells but training's")
    parser.add_argument("--drop", action="store_true", help="with it, what other code has recorded")
    parser.add_argument("--folder", type=Path, help="for a recording, to go on from, and to keep")
    parser.add_argument("--from-weights", type=Path, metavar="FOLDER", help="train nothing")
    parser.add_argument("--take", type=Path, metavar="FOLDER", help="run nothing")
    parser.add_argument("--seed", type=int, default=0, help="the first seed")
    parser.add_argument("--seeds", type=int, default=1, help="how many seeds to train")
    parser.add_argument("--precision", default="tf32", help="see d2lmini.train_ch6")
    args = parser.parse_args(argv)
    chapters = {notebooks.path(name).resolve(): name for name in notebooks.names()}
    for path in args.notebooks:
        if path.resolve() not in chapters:
            raise SystemExit(f"record: {path} is none of {', '.join(map(str, chapters))}")
    for path in args.notebooks:
        name = chapters[path.resolve()]
        folder = args.from_weights or args.take or args.folder or notebooks.ROOT / FOLDER
        folder = folder.expanduser().resolve()
        if args.skip_training:
            skip_training(name, args.drop)
        elif args.take:
            take(name, folder)
        else:
            record(name, folder, args)


if __name__ == "__main__":
    main()
