"""The answers to the exercises: every block of Python runs and prints what the text promises.

Those that are measured take minutes or more; here they run on the sample of 20 images, which gives
other numbers. What they printed in full is held to the record, by the hash of their code.
"""

import itertools
import re

import pytest

from tools import answers, files, notebooks
from tools.blocks import run

ANSWERS = answers.answers()
MEASURED = [answer for answer in ANSWERS if answer.name]
CELLS = [
    pytest.param(list(group), id="-".join(key))
    for key, group in itertools.groupby(ANSWERS, lambda answer: (answer.chapter, answer.cell))
]

measured = pytest.mark.parametrize("answer", MEASURED, ids=str)


def recorded(name):
    return files.read_json(notebooks.ROOT / "recordings" / f"{name}.json")


def without_numbers(text):
    """A text with every number as #: what measured answers print on other images, too."""
    return re.sub(r"\d[\d,]*(\.\d+)?(e[+-]\d+)?", "#", text)


@pytest.mark.slow
@pytest.mark.parametrize("blocks", CELLS)
def test_answer(blocks):
    namespace = notebooks.network_namespace(blocks[0].chapter)
    for answer in blocks:
        printed = run(answer.code, namespace).printed
        if answer.text:
            compared = without_numbers if answer.name else str
            assert compared(printed).strip() == compared(answer.text).strip()


def test_chapters_have_answers_with_code_and_records_have_answers():
    assert {answer.chapter for answer in ANSWERS} == set(notebooks.names())
    names = {path.stem for path in (notebooks.ROOT / answers.RECORDINGS).glob("*.json")}
    assert names >= {answer.name for answer in MEASURED}, "run python -m tools.answers"
    assert names <= {answer.name for answer in MEASURED}, "a record has no answer: delete it"


@measured
def test_a_measured_answer_is_its_record(answer):
    content = recorded(f"answers/{answer.name}")
    record = content["record"]
    again = f"{answer} was other code: run python -m tools.answers {answer.name}"
    assert record["code"] == answers.code_of(answer), again
    assert answer.text == record["text"].rstrip() + "\n"
    assert answer.told == answers.told(record)
    assert record["seeds"] == answers.seeds_of(answer)  # which refuses fewer than three
    assert all(run["num_samples"] == 60000 for run in content["histories"] if not run["stopped"])


@measured
def test_the_words_around_a_measured_answer_quote_what_was_measured(answer):
    """Every accuracy in the cell's prose is printed in it, or in the chapter's record."""
    (cell,) = (c for c in notebooks.read(answer.chapter).cells if c.id == answer.cell)
    prose = re.sub(r"```.*?```", "", cell.source, flags=re.DOTALL)
    printed = "".join(re.findall(r"```text\n(.*?)```", cell.source, re.DOTALL))
    (history, *_) = recorded(answer.chapter)["histories"]
    known = {*re.findall(r"[\d.]+", printed), *(f"{value:.3f}" for value in history["test_acc"])}
    assert set(re.findall(r"(?<![\d.])0\.\d{3}(?!\d)", prose)) <= known


def test_small_alexnet_beats_alexnet_with_every_seed():
    """As the answer says, of the second of its three networks, after ten epochs."""
    runs = recorded("answers/small-nets")["histories"][3:6]
    assert min(run["test_acc"][9] for run in runs) > recorded("alexnet")["record"]["test_acc"]
