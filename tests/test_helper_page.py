"""The page on d2lmini: every public name with its signature, and code that runs."""

import dataclasses
import inspect
import re

import pytest

import d2lmini
from tools import blocks, helper_page

TEXT = helper_page.PAGE.read_text("utf-8")
SECTIONS = dict(re.findall(r"^### `(\w+)`\n(.*?)(?=^##|\Z)", TEXT, re.DOTALL | re.MULTILINE))
OF_ALL_FIGURES = TEXT.split("\n## 画图\n")[1].split("\n### ")[0]  # what is said once


def signature(name, public):
    """How a reader calls it, without annotations; a fresh list stands as []."""
    fields = getattr(public, "__dataclass_fields__", {})
    parameters = []
    for parameter in inspect.signature(public).parameters.values():
        if parameter.name == "self":
            continue
        field = fields.get(parameter.name)
        if field is not None and field.default_factory is not dataclasses.MISSING:
            parameter = parameter.replace(default=field.default_factory())
        parameters.append(parameter.replace(annotation=parameter.empty))
    return f"{name}{inspect.Signature(parameters)}"


def test_every_public_name_has_a_section_and_nothing_else_has():
    assert sorted(SECTIONS) == d2lmini.__all__
    assert TEXT.count("\n### ") == len(SECTIONS)


@pytest.mark.parametrize("name", d2lmini.__all__)
def test_signature_options_methods_and_code(name):
    section, public = SECTIONS[name], getattr(d2lmini, name)
    assert section.split("\n\n")[0].strip() == f"`{signature(name, public)}`"
    prose = section.split("\n\n", 1)[1] + (OF_ALL_FIGURES if "caption" in section else "")
    for parameter in inspect.signature(public).parameters:
        assert f"`{parameter}`" in prose, f"nothing is said of {parameter}"
    code = [found["code"] for found in blocks.BLOCK.finditer(section)]
    assert code
    if name not in ("History",):  # train_ch6 makes it, and the code reads it
        assert any(f"d2l.{name}(" in source for source in code)
    for method, member in vars(public).items() if inspect.isclass(public) else ():
        if inspect.isfunction(member) and not method.startswith("_"):
            assert f"`{signature(method, member)}`" in section, f"{name}.{method}"


def test_all_of_the_code_runs_and_prints_what_the_page_says(capsys):
    ran = list(blocks.run_all(TEXT))
    assert len(ran) > len(SECTIONS)
    for block in ran:
        if block.text:
            assert block.printed == block.text, block.code
        if re.search(r"d2l\.(draw|show\w*)\(", block.code):
            assert block.figures, block.code


def test_the_figure_is_what_its_code_draws_and_another_is_noticed(tmp_path, monkeypatch):
    """A reader's own module: two paths, their sum, the ReLU after it."""
    figure = TEXT.split("<!-- figure:begin -->\n")[1].split("<!-- figure:end -->")[0]
    assert figure.startswith("<figure") and "\n\n" not in figure  # which would end the HTML
    assert all(part in figure for part in ("3×3 Conv", "1×1 Conv", "Add", "ReLU", "一个残差块"))
    copy = tmp_path / "d2lmini.md"
    monkeypatch.setattr(helper_page, "PAGE", copy)
    copy.write_text(TEXT.replace("一个残差块</figcaption>", "两个残差块</figcaption>"), "utf-8")
    helper_page.main()
    assert copy.read_text("utf-8") == TEXT, "run python -m tools.helper_page"
