"""The root page: its tables and charts are those of notebooks and recordings."""

import re

import pytest

from tests.test_notebooks_tool import command, write_book
from tools import code_hash, files, notebooks, root_page

LINK = "[VGG-11（通道为¼）](small.ipynb)"


def test_the_books_own_page_is_fresh():
    text = root_page.PAGE.read_text("utf-8")
    assert root_page.page() == text, "run python -m tools.root_page"


@pytest.fixture
def written(tmp_path, monkeypatch):
    """Write the page of a small book, with a training of these final accuracies, a seed each."""
    monkeypatch.setattr(notebooks, "ROOT", tmp_path)
    write_book(tmp_path)
    parts = ("networks", "costs", "results")
    markers = (f"<!-- {part}:begin -->\n<!-- {part}:end -->\n" for part in parts)
    page = tmp_path / "chapters" / "index.md"
    page.write_text("".join(markers))
    code = code_hash.training_code(notebooks.read("small"), "small")

    def write(*finals, **changed):
        record = {
            "device": "cpu", "device_name": "AMD EPYC, 2 threads", "torch": "2.14.1+cu130",
            "cuda": "13.0", "started": "2026-11-25T12:13:50+00:00", "precision": "bf16",
            "training_seconds": 3755.4,  # 62.6 minutes
            "examples_per_sec": 1234.5, "code": code,
        }  # fmt: skip
        if finals:
            record |= {"test_acc": finals[0], **changed}
            histories = [{"test_acc": [0.1, final]} for final in finals]
            content = {"record": record, "histories": histories}
            files.write_json(tmp_path / "recordings" / "small.json", content)
        command("root_page")
        return page.read_text("utf-8")

    return write


def test_every_number_comes_from_the_network_and_the_recording(written):
    page = written()
    network = f"| {LINK} | 2014 | 重复使用3×3卷积的块 | 7,850 | 0 M | 1×28×28 |"
    assert f"{network} 尚未录制 | 尚未录制 |" in page
    assert f"尚未录制完整训练：{LINK}。" in page
    page = written(0.87654)
    assert f"{network} 0.877 | 1,234张/秒（cpu） |" in page
    rest = "cpu (AMD EPYC, 2 threads) | torch 2.14.1, bf16 | 2026-11-25 |"
    assert f"| {LINK} | 1 | 0.877 | 1小时3分 | {rest}" in page
    assert "VGG-11 / 4 0.877" in page  # the curve, in its alternative text
    assert "尚未录制" not in page
    page = written(0.91, 0.92, 0.93, device="cuda:0")
    assert "| 3 | 0.920 ± 0.010 |" in page and "torch 2.14.1, CUDA 13.0, bf16" in page


def test_what_other_code_recorded_is_left_out(written):
    page = written(0.87654, code={"training": "another hash"})
    assert "0.877" not in page and f"尚未录制完整训练：{LINK}" in page


def test_a_chart_is_drawn_anew_where_its_numbers_changed(written, tmp_path):
    """Only there: each matplotlib draws the same in other bytes."""
    page = written(0.9)
    other_bytes = page.replace("<path", "<path  ")
    assert other_bytes != page
    (tmp_path / "chapters" / "index.md").write_text(other_bytes, "utf-8")
    assert written(0.9) == other_bytes
    changed = written(0.8)
    costs, curves = (re.search(rf"(?s)<!-- {part}:begin.*?:end", changed)[0]
                     for part in ("costs", "results"))  # fmt: skip
    assert "<path  " in costs and "<path  " not in curves and "VGG-11 / 4 0.800" in curves


def test_a_page_without_its_markers_is_refused(written, tmp_path):
    (tmp_path / "chapters" / "index.md").write_text("a page")
    with pytest.raises(SystemExit, match="needs one <!-- "):
        written()
