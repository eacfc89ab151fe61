"""The page on d2lmini: every public name with its signature, and code that runs."""

import inspect
import re

import pytest

import d2lmini
from tests.test_notebooks_tool import command
from tools import blocks, notebooks

TEXT = (notebooks.ROOT / "chapters" / "d2lmini.md").read_text("utf-8")
SECTIONS = dict(re.findall(r"^### `(\w+)`\n(.*?)(?=^##|\Z)", TEXT, re.DOTALL | re.MULTILINE))
OF_ALL_FIGURES = TEXT.split("\n## 画图\n")[1].split("\n### ")[0]  # what is said once


def signature(name, public):
    """How a reader calls it, without annotations."""
    parameters = [
        parameter.replace(annotation=parameter.empty)
        for parameter in inspect.signature(public).parameters.values() if parameter.name != "self"
    ]  # fmt: skip
    return f"{name}{inspect.Signature(parameters)}"


def test_every_public_name_has_a_section_and_nothing_else_has():
    assert sorted(SECTIONS) == d2lmini.__all__


@pytest.mark.parametrize("name", d2lmini.__all__)
def test_signature_options_and_methods(name):
    section, public = SECTIONS[name], getattr(d2lmini, name)
    if name != "History":  # which no reader makes
        assert section.split("\n\n")[0].strip() == f"`{signature(name, public)}`"
    prose = section.split("\n\n", 1)[1] + (OF_ALL_FIGURES if "caption" in section else "")
    for parameter in inspect.signature(public).parameters:
        assert f"`{parameter}`" in prose, f"nothing is said of {parameter}"
    for method, member in vars(public).items() if inspect.isclass(public) else ():
        if inspect.isfunction(member) and not method.startswith("_"):
            assert f"`{signature(method, member)}`" in section, f"{name}.{method}"


def test_the_code_runs_and_prints_what_the_page_says():
    ran = list(blocks.run_all(TEXT))
    assert len(ran) > len(SECTIONS)
    for block in ran:
        if block.text:
            assert block.printed == block.text, block.code


def test_the_figure_is_what_its_code_draws(tmp_path, monkeypatch):
    monkeypatch.setattr(notebooks, "ROOT", tmp_path)
    copy = tmp_path / "chapters" / "d2lmini.md"
    copy.parent.mkdir()
    copy.write_text(TEXT.replace("一个残差块</figcaption>", "两个残差块</figcaption>"), "utf-8")
    command("helper_page")
    assert copy.read_text("utf-8") == TEXT, "run python -m tools.helper_page"
