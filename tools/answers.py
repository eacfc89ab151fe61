"""Measure the answers that need training, and write what they print under their code.

    python -m tools.answers                     whatever is not measured yet, in the book's order
    python -m tools.answers lenet batch-size    of these, what is not measured yet

An answer is a block of Python in a folded cell, with the comment `<!-- measured: NAME -->` before
it, which no reader sees. It runs after the chapter's import cell and its cells tagged `net`, as it
stands, with all its seeds; what it prints goes into the block of text under it, and the line that
tells when and where under that. recordings/answers/NAME.json holds the same, with the history of
each training run. It is written as soon as the answer is measured, and stands as long as the code
is the same: a call that is cut off loses one answer, and its repetition goes on from there.
"""

import argparse
import dataclasses
import json
import re
import time
from pathlib import Path

import nbformat

from tools import blocks, code_hash, files, notebooks, runs

RECORDINGS = Path("recordings", "answers")
SEEDS = 3  # at least


@dataclasses.dataclass(frozen=True)
class Answer:
    """A block of Python in a folded answer; `name` is None where nothing has to be measured."""

    chapter: str
    cell: str
    name: str | None
    code: str
    text: str | None  # of the block under it
    told: str | None  # when and where it was measured

    def __str__(self):
        return f"{self.chapter}-{self.cell}" + (f"-{self.name}" if self.name else "")


def answers():
    """Every block of Python in the folded cells, in the book's order."""
    return [
        Answer(chapter, cell.id, *found.group("name", "code", "text", "told"))
        for chapter in notebooks.names()
        for cell in notebooks.read(chapter).cells
        if cell.cell_type == "markdown" and "<details>" in cell.source
        for found in blocks.BLOCK.finditer(cell.source)
    ]


def measured():
    """The answers that are measured, by name."""
    return {answer.name: answer for answer in answers() if answer.name}


def code_of(answer, notebook=None):
    """The hash that an answer's record goes by, in some version of its notebook."""
    return code_hash.answer_hash(notebook or notebooks.read(answer.chapter), answer.code)


def record_path(name):
    return notebooks.ROOT / RECORDINGS / f"{name}.json"


# --- running --------------------------------------------------------------------------------------


def seeds_of(answer):
    """The seeds that an answer's code names, before hours are spent on it."""
    named = {}
    if line := re.search(r"(?m)^seeds\b.*=.+$", answer.code):
        exec(line[0], named)
    seeds = list(named.get("seeds", ()))
    if not len(seeds) == len(set(seeds)) >= SEEDS:
        raise notebooks.ChapterError(
            f"{answer}: name {SEEDS} seeds or more, no two alike, in its line `seeds = ...`"
        )
    return seeds


def measure(answer):
    """Run an answer in full, in a kernel of its own; return its record and its histories."""
    seeds, code = seeds_of(answer), code_of(answer)

    def cells_of(notebook):
        text = [cell.source for cell in notebook.cells if cell.id == answer.cell]
        return code_of(answer, notebook), text

    begun = runs.begun(answer.chapter, cells_of)
    before = notebooks.network_cells(notebooks.read(answer.chapter))
    cell = nbformat.v4.new_code_cell(answer.code)
    notebook = nbformat.v4.new_notebook(cells=[*before, cell])
    clock = time.perf_counter()
    with runs.Kernel(notebook) as kernel:
        for each in notebook.cells:
            kernel.call("watch", 0)
            _, cpu = kernel.call("collected")
            kernel.run(each)
        histories, cpu_now = kernel.call("collected")
    record = {
        "chapter": answer.chapter,
        **kernel.machine,
        **begun,
        "wall_seconds": round(time.perf_counter() - clock, 1),
        "cpu_seconds": round(cpu_now - cpu, 1),
        "seeds": seeds,
        "text": "".join(out["text"] for out in cell.outputs if out.get("name") == "stdout"),
        "code": code,
    }
    for history in histories:
        del history["curve"]
    text = json.dumps(histories)  # six digits behind the point are enough
    histories = json.loads(text, parse_float=lambda number: round(float(number), 6))
    return {"record": record, "histories": histories}


# --- writing --------------------------------------------------------------------------------------


def told(record):
    """When and where an answer was measured, for the reader."""
    # On a processor its own time: it does not depend on what else the machine did.
    seconds, clock = record["wall_seconds"], "用时"
    if record["device"] == "cpu":
        seconds, clock = record["cpu_seconds"], "处理器用时"
    minutes = max(round(seconds / 60), 1)
    return (
        f"{record['started'][:10]}，{record['device']} ({record['device_name']})，"
        f"torch {record['torch']}，Python {record['python']}，"
        f"{len(record['seeds'])}个种子，{clock}{minutes}分钟"
    )


def write(answer, content):
    """Put what an answer printed under its code."""
    record, notebook = content["record"], notebooks.read(answer.chapter)
    (cell,) = (cell for cell in notebook.cells if cell.id == answer.cell)

    def placed(found):
        if found["name"] != answer.name:
            return found[0]
        return (
            f"<!-- measured: {answer.name} -->\n\n```python\n{answer.code}```\n\n"
            f"```text\n{record['text'].rstrip()}\n```\n\n（实测：{told(record)}）"
        )

    cell.source = blocks.BLOCK.sub(placed, cell.source)
    files.write_whole(notebooks.path(answer.chapter), files.notebook_text(notebook))


@notebooks.exit_on_fault("answers")
def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="only these answers")
    args = parser.parse_args(argv)
    known = measured()
    if unknown := set(args.names) - set(known):
        raise SystemExit(f"answers: no answer is called {', '.join(sorted(unknown))}")
    for name in args.names or known:
        answer, path = known[name], record_path(name)
        content = files.read_json(path)
        if not content or content["record"]["code"] != code_of(answer):
            print(f"answers: {name}", flush=True)
            with runs.alone(path.with_suffix(".lock")):
                content = measure(answer)
                files.write_json(path, content)
        answer = measured()[name]  # as it is by now
        if content["record"]["code"] != code_of(answer):
            raise SystemExit(f"answers: the code of {name} has changed meanwhile; run this again")
        write(answer, content)
        print(f"answers: wrote {name}, {content['record']['wall_seconds']:.0f} s", flush=True)


if __name__ == "__main__":
    main()
