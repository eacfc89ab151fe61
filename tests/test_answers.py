"""The answers to the exercises: every block of Python runs and prints what the text promises."""

import contextlib
import io
import re

import pytest

from tools import notebooks

BLOCK = re.compile(r"```python\n(.*?)```(?:\s*```text\n(.*?)```)?", re.DOTALL)


def answers():
    """(chapter, cell, Python blocks with the output that the text promises, or '')."""
    for name in notebooks.names():
        for cell in notebooks.read(name).cells:
            if cell.cell_type == "markdown" and "<details>" in cell.source:
                blocks = BLOCK.findall(cell.source)
                if blocks:
                    yield pytest.param(name, blocks, id=f"{name}-{cell.id}")


@pytest.mark.slow
@pytest.mark.parametrize(("name", "blocks"), list(answers()))
def test_answer(name, blocks):
    namespace = notebooks.network_namespace(name)
    for source, promised in blocks:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(source, f"{name}, answer", "exec"), namespace)
        if promised:
            assert printed.getvalue().strip() == promised.strip()


def test_every_chapter_has_an_answer_with_code():
    assert {parameter.values[0] for parameter in answers()} == set(notebooks.names())
