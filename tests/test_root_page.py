"""The root page: its table and chart are those of the notebooks."""

import re

import pytest

from tests.test_networks import NETWORKS
from tools import notebooks, root_page


@pytest.mark.slow
def test_page_is_fresh_and_a_changed_number_is_noticed(tmp_path, monkeypatch):
    text = root_page.PAGE.read_text("utf-8")
    stamp = re.search(r"<!-- ([0-9a-f]{16}) -->", text)[1]
    copy = tmp_path / "index.md"
    copy.write_text(text.replace("1,992,166", "1,992,167", 1), "utf-8")  # in the table
    monkeypatch.setattr(root_page, "PAGE", copy)
    assert root_page.page() == text, "run python tools/root_page.py"
    copy.write_text(text.replace(stamp, "0" * 16), "utf-8")
    assert f"<!-- {stamp} -->" in root_page.page()


def test_sides_are_those_of_the_chapters():
    for name, (*_, side) in root_page.IDEAS.items():
        assert side == NETWORKS[name][1]
        source = "\n".join(cell.source for cell in notebooks.read(name).cells)
        assert f"load_data_fashion_mnist(batch_size, resize={side})" in source


def test_results_come_from_the_record():
    record = {"test_acc": 0.87654, "examples_per_sec": 1234.5, "device": "cuda:0"}
    assert root_page.results(record) == ("0.877", "1,234张/秒（cuda:0）")
    assert root_page.results(None) == ("尚未录制", "尚未录制")
