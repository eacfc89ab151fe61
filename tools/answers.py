"""Measure the answers that need training, and write what they print under their code.

    python tools/answers.py                     whatever is not measured yet, in the book's order
    python tools/answers.py lenet batch-size    of these, what is not measured yet
    python tools/answers.py --keep ~/measured   goes on where an earlier call was cut off

An answer is a block of Python in a folded cell, with the comment `<!-- measured: NAME -->` before
it, which no reader sees. It runs after the chapter's import cell and its cells tagged `net`, as it
stands, with all its seeds; what it prints goes into the block of text under it, and the line that
tells when and where under that. recordings/answers/NAME.json holds the same, with the history of
each training run. With --keep a measured answer is stored in that folder as soon as it is done,
and taken from there as long as its code is the same: an interrupted call loses one answer at most.
"""

import argparse
import contextlib
import dataclasses
import datetime
import hashlib
import io
import json
import platform
import re
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
import d2lmini
from tools import notebooks

RECORDINGS = Path("recordings", "answers")
BLOCK = re.compile(
    r"(?:<!-- measured: (?P<name>[\w-]+) -->\s*)?"
    r"```python\n(?P<code>.*?)```"
    r"(?P<printed>\s*```text\n(?P<text>.*?)```)?"
    r"(?P<placed>\s*（实测：(?P<told>[^\n]*)）$)?",
    re.DOTALL | re.MULTILINE,
)
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


def answers(root=None):
    """Every block of Python in the folded cells, in the book's order."""
    return [
        Answer(chapter, cell.id, *found.group("name", "code", "text", "told"))
        for chapter in notebooks.names(root)
        for cell in notebooks.read(chapter, root).cells
        if cell.cell_type == "markdown" and "<details>" in cell.source
        for found in BLOCK.finditer(cell.source)
    ]


def measured(root=None):
    """The answers that are measured, by name."""
    found = {}
    for answer in answers(root):
        if answer.name in found:
            raise notebooks.ChapterError(
                f"chapters/{answer.chapter}.ipynb: two measured answers are called {answer.name}; "
                "give one of them another name"
            )
        if answer.name:
            found[answer.name] = answer
    return found


def code_hash(answer):
    """SHA-256 of an answer's code and of the cells that run before it."""
    before = notebooks.network_cells(notebooks.read(answer.chapter))
    sources = [*(cell.source for cell in before), answer.code]
    return hashlib.sha256("\n\0".join(sources).encode()).hexdigest()


def record_path(name, root=None):
    return Path(root or notebooks.ROOT) / RECORDINGS / f"{name}.json"


# --- running --------------------------------------------------------------------------------------


class Copied(io.StringIO):
    """Keeps what is printed and shows it too."""

    def __init__(self, shown):
        super().__init__()
        self.shown = shown

    def write(self, text):
        self.shown.write(text)
        self.shown.flush()
        return super().write(text)


def run(answer, namespace, shown=None):
    """Run an answer's code among the names of its chapter; return what it prints."""
    printed = Copied(shown) if shown else io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(answer.code, str(answer), "exec"), namespace)
    return printed.getvalue()


@contextlib.contextmanager
def histories_kept():
    """The histories of all runs of `train_ch6` meanwhile, as a list of dicts."""
    found, train_ch6 = [], d2lmini.train_ch6

    def kept(*args, **options):
        history = train_ch6(*args, **options)
        names = ("seed", "precision", "num_samples", "train_loss", "train_acc", "test_acc")
        found.append({name: getattr(history, name) for name in (*names, "stopped")})
        return history

    d2lmini.train_ch6 = kept
    try:
        yield found
    finally:
        d2lmini.train_ch6 = train_ch6


def measure(answer):
    """Run an answer in full; return its record."""
    started, clock, cpu = datetime.date.today(), time.perf_counter(), time.process_time()
    namespace = notebooks.network_namespace(answer.chapter)
    with histories_kept() as histories:
        text = run(answer, namespace, shown=sys.stdout)
    device = d2lmini.try_gpu()
    return {
        "chapter": answer.chapter,
        "code_hash": code_hash(answer),
        "date": started.isoformat(),
        "device": str(device),
        "device_name": d2lmini.device.device_name(device),
        "torch": namespace["torch"].__version__,
        "python": platform.python_version(),
        "seconds": round(time.perf_counter() - clock, 1),
        "cpu_seconds": round(time.process_time() - cpu, 1),
        "seeds": list(namespace["seeds"]),
        "text": text,
        "histories": rounded(histories),
    }


def rounded(value):
    """Numbers with six digits behind the point, at any depth."""
    if isinstance(value, float):
        return round(value, 6)
    if isinstance(value, list):
        return [rounded(item) for item in value]
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    return value


# --- writing --------------------------------------------------------------------------------------


def told(record):
    """When and where an answer was measured, for the reader."""
    # On a processor its own time: it does not depend on what else the machine did.
    seconds, clock = record["seconds"], "用时"
    if record["device"] == "cpu":
        seconds, clock = record["cpu_seconds"], "处理器用时"
    minutes = max(round(seconds / 60), 1)
    return (
        f"{record['date']}，{record['device']} ({record['device_name']})，torch {record['torch']}，"
        f"Python {record['python']}，{len(record['seeds'])}个种子，{clock}{minutes}分钟"
    )


def write(answer, record):
    """Put a record's text under the answer's code, and the record into recordings/."""
    path = notebooks.path(answer.chapter)
    notebook = json.loads(path.read_text("utf-8"))
    (cell,) = (cell for cell in notebook["cells"] if cell["id"] == answer.cell)

    def placed(found):
        if found["name"] != answer.name:
            return found[0]
        return (
            f"<!-- measured: {answer.name} -->\n\n```python\n{answer.code}```\n\n"
            f"```text\n{record['text'].rstrip()}\n```\n\n（实测：{told(record)}）"
        )

    source = BLOCK.sub(placed, "".join(cell["source"]))
    cell["source"] = source.splitlines(keepends=True)
    store(path, notebook)
    store(record_path(answer.name), record)


def store(path, content):
    """Write a record or a notebook as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", "utf-8")


def load(path, answer):
    """The record in a file, or None where there is none of this code."""
    record = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    return record if record.get("code_hash") == code_hash(answer) else None


@notebooks.exit_on_fault("answers")
def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="only these answers")
    parser.add_argument("--keep", metavar="FOLDER", type=Path, help="for what is done, see above")
    parser.add_argument("--dry", action="store_true", help="measure nothing, write what is kept")
    args = parser.parse_args(argv)
    known = measured()
    if unknown := set(args.names) - set(known):
        raise SystemExit(f"answers: no answer is called {', '.join(sorted(unknown))}")
    for name in args.names or known:
        places = [record_path(name)]
        if args.keep:
            places.append(args.keep.expanduser() / f"{name}.json")
        record = next(filter(None, (load(path, known[name]) for path in places)), None)
        if record is None:
            print(f"answers: {name}" + ", not measured" * args.dry, flush=True)
            if args.dry:
                continue
            record = measure(known[name])
            store(places[-1], record)
        answer = measured()[name]  # as it is by now
        if record["code_hash"] != code_hash(answer):
            raise SystemExit(f"answers: the code of {name} has changed meanwhile; run this again")
        write(answer, record)
        print(f"answers: wrote {name}, {record['seconds']:.0f} s", flush=True)


if __name__ == "__main__":
    main()
