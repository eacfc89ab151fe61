"""The hashes that records go by: of the syntax tree, and of what a training depends on."""

import ast

import nbformat
import pytest

from tools import code_hash, notebooks

CELLS = {
    "imports": "import math\nfrom torch import nn\n\nimport d2lmini as d2l",
    "block": "def block(width):\n    return [width for _ in range(WIDTH)]",
    "width": "WIDTH = 3",
    "report": "def report(net):\n    print(net)",
    "net": "net = nn.Sequential(*block(4))",
    "init": "nn.init.zeros_(net[0].weight)",
    "look": "for layer in net:\n    print(layer)",
    "data": "lr, batches = 0.1, d2l.load_data_fashion_mnist(8)",
    "train": "history = d2l.train_ch6(net, *batches, 1, lr)",
    "results": "report(net)",
}
TAGS = {"data": "setup", "train": "training", "results": "trained", "look": "other"}


def notebook(**changed):
    """A small chapter; `changed` gives some cells another source."""
    return nbformat.v4.new_notebook(
        cells=[
            nbformat.v4.new_code_cell(source, id=cell, metadata={"tags": [TAGS.get(cell, "net")]})
            for cell, source in {**CELLS, **changed}.items()
        ]
    )


def hashes(**changed):
    return code_hash.training_code(notebook(**changed), "small")


BEFORE = hashes()


def test_a_hash_is_the_same_in_every_python():
    """Where it differs, all records would seem to be of other code."""
    source = """
@cached(1_000, "β" "γ", key=None)
class Net(nn.Module, metaclass=Meta):
    '''文档'''
    scale: float = -1e-3

    def forward(self, x, /, *args, flag=True, **kwargs) -> "Tensor":
        match = [f"{x!r:>{width}}{y:.1%} 个" for x, *y in zip(*args) if x != b"0"]
        with torch.no_grad(), open(name) as file:
            return lambda: (x := self.scale @ match[1:, ...]) if flag else None
"""
    found = code_hash.tree_hash(ast.parse(source))
    assert found == "dd86ee0f329c92fa091b7394bfd1b132b834d10c072caee57d787d7ff6f53f5c"


@pytest.mark.parametrize(
    ("changed", "differing"),
    [
        # What the training does not depend on:
        ({"net": "# a comment\nnet = nn.Sequential(\n    *block(4))"}, []),
        ({"look": "for another in net:\n    print(another)"}, []),
        ({"report": "def report(net):\n    return net"}, []),  # which it never calls
        ({"imports": f"import json\n{CELLS['imports']}"}, []),
        ({"results": "report(net[0])"}, []),
        # What it depends on:
        ({"width": "WIDTH = 4"}, ["width"]),  # which a function reads that it calls
        ({"init": "nn.init.ones_(net[0].weight)"}, ["init"]),  # changes the network in place
        ({"imports": CELLS["imports"].replace("torch", "other")}, ["imports"]),
        ({"data": CELLS["data"].replace("0.1", "0.2")}, ["data"]),
        ({"train": CELLS["train"].replace("1, lr", "2, lr")}, ["train"]),
    ],
)
def test_a_record_is_of_what_the_training_depends_on(changed, differing):
    now = hashes(**changed)
    assert (now["training"] == BEFORE["training"]) == (not differing)
    assert code_hash.differing(BEFORE["cells"], now["cells"]) == differing


def test_a_statement_may_stand_in_another_cell():
    moved = hashes(block=f"{CELLS['block']}\n\n\nWIDTH = 3", width="UNUSED = 1")
    assert moved["training"] == BEFORE["training"]


def test_a_cell_that_shows_results_has_a_hash_of_its_own():
    assert hashes(results="report(net)  # again") == BEFORE
    assert code_hash.differing(BEFORE["trained"], hashes(results="1")["trained"]) == ["results"]


def test_code_that_no_hash_covers_is_refused():
    with pytest.raises(notebooks.ChapterError, match="depends on net, which cell look binds"):
        hashes(look="net = 1")


def test_an_answer_depends_on_what_it_calls():
    def answer(**changed):
        return code_hash.answer_hash(notebook(**changed), "report(1)")

    assert answer(width="WIDTH = 4") == answer(report=f"{CELLS['report']}  # again") == answer()
    assert answer(report="report = print") != answer()
