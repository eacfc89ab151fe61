"""The answers to the exercises: every block of Python runs and prints what the text promises.

Those that are measured take minutes or more; here they run on the sample of 20 images, which gives
other numbers. What they printed in full is held to the record, by the hash of their code.
"""

import datetime
import itertools
import json
import re

import pytest

from tools import answers, notebooks
from tools.blocks import run

ANSWERS = answers.answers()
MEASURED = [answer for answer in ANSWERS if answer.name]
CELLS = [
    pytest.param(list(group), id="-".join(key))
    for key, group in itertools.groupby(ANSWERS, lambda answer: (answer.chapter, answer.cell))
]
HOURS = 3  # of the processor, for the whole set

measured = pytest.mark.parametrize("answer", MEASURED, ids=str)


def content_of(answer):
    return json.loads(answers.record_path(answer.name).read_text("utf-8"))


def record_of(answer):
    return content_of(answer)["record"]


def without_numbers(text):
    """A text with every number as #: what measured answers print on other images, too."""
    return re.sub(r"\d[\d,]*(\.\d+)?(e[+-]\d+)?", "#", text).strip()


@pytest.mark.slow
@pytest.mark.parametrize("blocks", CELLS)
def test_answer(blocks):
    namespace = notebooks.network_namespace(blocks[0].chapter)
    for answer in blocks:
        printed = run(answer.code, namespace).printed
        if answer.name:
            assert without_numbers(printed) == without_numbers(answer.text)
        elif answer.text:
            assert printed.strip() == answer.text.strip()


def test_every_chapter_has_an_answer_with_code():
    assert {answer.chapter for answer in ANSWERS} == set(notebooks.names())


@measured
def test_the_text_of_a_measured_answer_is_its_record(answer):
    again = f"run python -m tools.answers {answer.name}"
    assert answers.record_path(answer.name).is_file(), f"{answer} is not measured: {again}"
    record = record_of(answer)
    assert record["code"] == answers.code_of(answer), f"{answer} was other code: {again}"
    assert answer.text == record["text"].rstrip() + "\n"
    assert answer.told == answers.told(record)


@measured
def test_a_measured_answer_is_of_several_seeds_and_tells_when_and_where(answer):
    record = record_of(answer)
    assert len(set(record["seeds"])) == len(record["seeds"]) >= answers.SEEDS
    assert datetime.date.fromisoformat(record["started"][:10])
    told = ("device", "device_name", "torch", "python", "wall_seconds", "cpu_seconds")
    assert all(record[key] for key in told)
    histories = content_of(answer)["histories"]
    seeds = [run["seed"] for run in histories]
    assert set(seeds) <= set(record["seeds"])
    assert len(seeds) % len(record["seeds"]) == 0  # each setting with each seed
    assert all(run["num_samples"] == 60000 for run in histories if not run["stopped"])


@measured
def test_the_words_around_a_measured_answer_quote_what_was_measured(answer):
    """Every accuracy in the cell's prose is printed in it, or in the chapter's record."""
    (cell,) = (c for c in notebooks.read(answer.chapter).cells if c.id == answer.cell)
    prose = re.sub(r"```.*?```", "", cell.source, flags=re.DOTALL)
    printed = "".join(re.findall(r"```text\n(.*?)```", cell.source, re.DOTALL))
    path = notebooks.ROOT / "recordings" / f"{answer.chapter}.json"
    (history, *_) = json.loads(path.read_text("utf-8"))["histories"]
    known = {*re.findall(r"[\d.]+", printed), *(f"{value:.3f}" for value in history["test_acc"])}
    assert set(re.findall(r"(?<![\d.])0\.\d{3}(?!\d)", prose)) <= known


def test_small_alexnet_beats_alexnet_with_every_seed():
    """As the answer says, of the second of its three networks, after ten epochs."""
    (answer,) = (answer for answer in MEASURED if answer.name == "small-nets")
    accuracies = [run["test_acc"][9] for run in content_of(answer)["histories"][3:6]]
    recorded = json.loads((notebooks.ROOT / "recordings" / "alexnet.json").read_text("utf-8"))
    assert min(accuracies) > recorded["record"]["test_acc"]


def test_every_record_has_its_answer():
    files = {path.stem for path in (notebooks.ROOT / answers.RECORDINGS).glob("*.json")}
    assert files == {answer.name for answer in MEASURED}


def test_the_whole_set_can_be_measured_in_an_evening():
    """Counted in the processor's own time, whatever else ran meanwhile."""
    assert sum(record_of(answer)["cpu_seconds"] for answer in MEASURED) < HOURS * 3600
