"""Once: records and measured answers go by the hash of their syntax tree, not of their text.

Proves first, by the old hash, that each of them is of today's code; then stores the new hashes in
notebooks and recordings together. Gives the cells of data and hyperparameters their tag, `setup`.
"""

import json
import sys
from pathlib import Path

import nbformat

sys.path.insert(0, str(Path(__file__).parents[1]))
from tools import answers, code_hash, notebooks

SETUP = {"data", "hyperparameters"}


def stored(path):
    return json.loads(path.read_text("utf-8"))


def write(path, content):
    text = json.dumps(content, ensure_ascii=False, indent=1) + "\n"
    path.write_text(text, "utf-8", newline="\n")


# All of it is proved before anything is written.
books = {name: notebooks.read(name) for name in notebooks.names()}
records = {name: stored(notebooks.ROOT / "recordings" / f"{name}.json") for name in books}
for name, notebook in books.items():
    old = notebooks.code_hash(notebook)
    assert old == notebook.metadata.d2lmini.code_hash == records[name]["record"]["code_hash"], name
measured = {answer: stored(answers.record_path(answer.name)) for answer in answers.answers() if answer.name}
assert len(books) == 4 and len(measured) == 10
for answer, record in measured.items():
    assert record["code_hash"] == answers.code_hash(answer), answer

for name, notebook in books.items():
    for cell in notebook.cells:
        if cell.cell_type == "code" and cell.id in SETUP:
            cell.metadata.tags = ["setup", *cell.metadata.get("tags", ())]
    code = code_hash.training_code(notebook, name)
    for record in (notebook.metadata.d2lmini, records[name]["record"]):
        del record["code_hash"]
        record["code"] = code
    nbformat.write(notebook, notebooks.path(name))
    write(notebooks.ROOT / "recordings" / f"{name}.json", records[name])
for answer, old in measured.items():
    histories = old.pop("histories")
    old["code"] = code_hash.answer_hash(books[answer.chapter], answer.code)
    old["started"], old["wall_seconds"] = old.pop("date"), old.pop("seconds")
    del old["code_hash"]
    write(answers.record_path(answer.name), {"record": old, "histories": histories})
    print(answer, old["code"][:8])
