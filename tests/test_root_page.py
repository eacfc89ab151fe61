"""The root page: its tables and charts are those of notebooks and recordings."""

import re

import pytest
import torch

from tools import files, notebooks, root_page

CHAPTERS = [notebooks.chapter(name) for name in ("alexnet", "vgg", "nin", "googlenet")]


def test_page_is_fresh_and_a_changed_number_is_noticed(tmp_path, monkeypatch):
    text = root_page.PAGE.read_text("utf-8")
    stamp = re.search(r"<!-- ([0-9a-f]{16}) -->", text)[1]
    copy = tmp_path / "index.md"
    copy.write_text(text.replace("1,992,166", "1,992,167", 1), "utf-8")  # in the table
    monkeypatch.setattr(root_page, "PAGE", copy)
    assert root_page.page() == text, "run python -m tools.root_page"
    copy.write_text(text.replace(stamp, "0" * 16), "utf-8")
    assert f"<!-- {stamp} -->" in root_page.page()


def recording(*finals, **changed):
    """What record.py stores of a training with these final test accuracies, a seed each."""
    record = {
        "device": "cpu", "device_name": "AMD EPYC, 2 threads", "torch": "2.14.1+cu130",
        "cuda": "13.0", "started": "2026-11-25T12:13:50+00:00", "precision": "bf16",
        "training_seconds": 3755.4,  # 62.6 minutes
        "examples_per_sec": 1234.5, "test_acc": finals[0],
    }  # fmt: skip
    histories = [{"test_acc": [0.1, final]} for final in finals]
    return {"record": {**record, **changed}, "histories": histories}


def test_every_result_comes_from_the_recordings():
    recorded = {"nin": recording(0.87654), "vgg": recording(0.91, 0.92, 0.93, device="cuda:0")}
    table = root_page.results(CHAPTERS, recorded)
    machine = "cpu (AMD EPYC, 2 threads) | torch 2.14.1, bf16 | 2026-11-25"
    assert f"| [NiN](nin.ipynb) | 1 | 0.877 | 1小时3分 | {machine} |\n" in table
    machine = "cuda:0 (AMD EPYC, 2 threads) | torch 2.14.1, CUDA"
    assert f"(vgg.ipynb) | 3 | 0.920 ± 0.010 | 1小时3分 | {machine}" in table
    assert table.endswith("[AlexNet](alexnet.ipynb)、[GoogLeNet](googlenet.ipynb)。\n")
    assert root_page.results(CHAPTERS, {}).startswith("\n尚未录制完整训练：[AlexNet]")


def test_a_chart_is_drawn_anew_where_numbers_or_drawing_changed(tmp_path, monkeypatch):
    assert root_page.curves_chart(CHAPTERS, {}, old="") == ""
    recorded = {"nin": recording(0.87654), "vgg": recording(0.91, 0.92)}
    chart = root_page.curves_chart(CHAPTERS, recorded, old="")
    assert "NiN 0.877" in chart and "VGG-11 / 4 0.910" in chart  # the alternative text
    assert root_page.curves_chart(CHAPTERS, recorded, old=chart) == chart
    changed = {**recorded, "nin": recording(0.9)}
    assert "NiN 0.900" in root_page.curves_chart(CHAPTERS, changed, old=chart)
    other = tmp_path / "style.py"
    other.write_text("COLOUR = 1")
    monkeypatch.setattr(root_page, "DRAWN_BY", [*root_page.DRAWN_BY, other])
    anew = root_page.curves_chart(CHAPTERS, recorded, old=chart)
    assert anew != chart
    other.write_text("COLOUR = 1  # a comment")
    assert root_page.curves_chart(CHAPTERS, recorded, old=anew) == anew


def test_networks_are_listed_with_their_record():
    costs = [root_page.trace(torch.nn.Linear(2, 3), (1, 2))] * 4
    rows = root_page.network_table(CHAPTERS, costs, {"nin": recording(0.87654)}).splitlines()
    assert rows[3].startswith("| [VGG-11（通道为¼）](vgg.ipynb) | 2014 | 重复使用3×3卷积的块 | 9 |")
    assert "| 1×96×96 |" in rows[5]
    assert rows[4].endswith("| 0.877 | 1,234张/秒（cpu） |")
    assert [row.count("尚未录制") for row in rows[2:]] == [2, 2, 0, 2]


def test_what_other_code_recorded_is_left_out(monkeypatch):
    before = list(root_page.recordings(CHAPTERS))
    read = notebooks.read

    def changed(name, root=None):
        notebook = read(name, root)
        if name == "vgg":
            for cell in notebook.cells:
                cell.source = cell.source.replace("= 0.05, 10, 128", "= 0.06, 10, 128")
        return notebook

    monkeypatch.setattr(notebooks, "read", changed)
    assert list(root_page.recordings(CHAPTERS)) == [name for name in before if name != "vgg"]


def test_a_page_without_its_markers_says_so():
    with pytest.raises(notebooks.ChapterError, match="needs one <!-- costs:begin -->"):
        files.replace("a page", "costs", str)


def test_every_curve_is_drawn_and_told_apart_without_colours():
    curves = {f"net {i}": [0.1, i / 40] for i in range(32)}
    fig, alt = root_page.curves_figure(list(curves.items()))
    lines = fig.axes[0].get_lines()
    assert [list(line.get_ydata()) for line in lines] == list(curves.values())
    assert len({(line.get_linestyle(), line.get_marker()) for line in lines}) == len(curves)
    assert [text.get_text() for text in fig.axes[0].get_legend().get_texts()] == list(curves)
    assert all(f"{label} {final:.3f}" in alt for label, (_, final) in curves.items())
    more = [(f"net {i}", [0.1]) for i in range(50)]
    assert len(root_page.curves_figure(more)[0].axes[0].get_lines()) == 50


def test_a_stale_page_is_written_anew(tmp_path, monkeypatch):
    text, copy = root_page.PAGE.read_text("utf-8"), tmp_path / "index.md"
    monkeypatch.setattr(root_page, "page", lambda: text)  # which takes a while
    monkeypatch.setattr(root_page, "PAGE", copy)
    copy.write_text(text.replace("| 2026-", "| 2025-", 1), "utf-8")
    root_page.main()
    assert copy.read_text("utf-8") == text
