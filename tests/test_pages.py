"""The pages beside the chapters: what goes wrong, references and credit, and both READMEs."""

import json
import re
import shutil
import warnings
from pathlib import Path

import pytest
import torch
import yaml
from matplotlib import font_manager
from matplotlib import pyplot as plt
from torch import nn
from torchvision.datasets import FashionMNIST

import d2lmini as d2l
from d2lmini import checks, data, device
from d2lmini.figures import inline_svg
from tools import notebooks, set_repository

ROOT = notebooks.ROOT
TROUBLE = (ROOT / "chapters/trouble.md").read_text("utf-8")
REFERENCES = (ROOT / "chapters/references.md").read_text("utf-8")
ENGLISH, CHINESE = ((ROOT / name).read_text("utf-8") for name in ("README.md", "README.zh.md"))
BLOCK = re.compile(r"^ *```(\w+)\n(.*?)^ *```$", re.DOTALL | re.MULTILINE)
QUOTED = [
    line.strip()
    for kind, block in BLOCK.findall(TROUBLE)
    if kind == "text"
    for line in block.splitlines()
]
PROJECT = (ROOT / "pyproject.toml").read_text("utf-8")


def python_block(start):
    """The code of the page that starts so, without the indentation of a list."""
    found = [re.sub(r"(?m)^  (?=\S)", "", block) for kind, block in BLOCK.findall(TROUBLE)
             if kind == "python" and block.lstrip().startswith(start)]  # fmt: skip
    assert len(found) == 1
    return found[0]


def quotes(message):
    """Whether a line that the page shows is in a message; an ellipsis stands for anything."""
    lines = (re.sub(r"^\w+Error: ", "", line) for line in QUOTED if " " in line)
    return any(all(part.strip() in message for part in line.split("…")) for line in lines)


# What goes wrong ---------------------------------------------------------------------------------


def test_pages_lead_there():
    for name in ("README.md", "README.zh.md"):
        assert "](chapters/trouble.md)" in (ROOT / name).read_text("utf-8")
    files = ["index.md", *(f"{name}.ipynb" for name in notebooks.names()), "d2lmini.md"]
    for name in files:
        assert "](trouble.md" in (ROOT / "chapters" / name).read_text("utf-8"), name


def test_each_entry_says_what_to_do():
    entries = re.split(r"^### ", TROUBLE, flags=re.MULTILINE)[1:]
    assert len(entries) > 12
    for entry in entries:
        title, text = entry.split("\n", 1)
        assert "办法：" in text or "移到" in text, title
        assert len(re.sub(r"```.*?```", "", text, flags=re.DOTALL)) < 700, title


def test_what_others_say_is_there_to_be_found():
    for message in (
        "externally-managed-environment",  # pip
        "Package 'd2lmini' requires a different Python",  # pip
        "The token '&&' is not a valid statement separator in this version.",  # PowerShell 5.1
        "Torch not compiled with CUDA enabled",  # torch
        "No module named 'd2lmini'",
        "OMP: Error #15: Initializing libiomp5md.dll",  # Intel's OpenMP
        "The kernel appears to have died.",  # Jupyter
        "'gbk' codec can't encode character",
    ):
        assert message in TROUBLE


def test_minutes_on_a_cpu_are_those_of_the_records():
    """An epoch with its evaluation: the fastest and the slowest, rounded."""
    labels = {"alexnet": "AlexNet（224）", "vgg": "缩小的VGG-11（224）", "nin": "NiN（224）",
              "googlenet": "GoogLeNet（96）"}  # fmt: skip
    for name, label in labels.items():
        record = json.loads((ROOT / f"recordings/{name}.json").read_text("utf-8"))
        if not record["record"]["device"].startswith("cpu"):
            continue  # recorded on a GPU since
        history = record["histories"][0]
        pairs = zip(history["train_seconds"], history["test_seconds"], strict=True)
        minutes = [round((train + test) / 60) for train, test in pairs]
        told = "到".join(map(str, sorted({min(minutes), max(minutes)})))
        assert f"| {label} | {told} | {history['precision']} |" in TROUBLE, name


def test_a_missing_data_set_is_quoted(monkeypatch, tmp_path):
    def refuse(*_args, **_options):
        raise RuntimeError("no network")

    monkeypatch.setattr(data, "download_url", refuse)
    monkeypatch.setattr(data, "DEBIAN_FOLDER", tmp_path / "none")
    with pytest.raises(FileNotFoundError) as error:
        data.find_files(tmp_path)
    assert quotes(str(error.value))


@pytest.mark.parametrize("ending", [".gz", ""])
def test_damaged_files_are_quoted(tmp_path, ending):
    """What a browser may save instead of the file."""
    for name in data.CHECKSUMS:
        (tmp_path / name.removesuffix(".gz")).with_suffix(ending).write_bytes(b"<html>")
    with pytest.raises(RuntimeError) as error:
        d2l.load_data_fashion_mnist(4, root=tmp_path)
    assert quotes(str(error.value))


def test_files_and_folder_are_those_that_are_looked_for(monkeypatch, tmp_path):
    section = TROUBLE.split("### 数据集下载不下来")[1].split("###")[0]
    names = re.findall(r"^ +(\S+\.gz)$", section, re.MULTILINE)
    assert names == list(data.CHECKSUMS)
    folder = re.search(r"`~/(\S+?)`", section)[1]
    assert any(f"]({mirror}{names[0]})" in section for mirror in FashionMNIST.mirrors)
    for variable in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(variable, str(tmp_path))
    for variable in ("D2LMINI_DATA", "XDG_CACHE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    (tmp_path / folder).mkdir(parents=True)
    placed = {name: tmp_path / folder / name for name in names}
    for place in placed.values():
        place.write_bytes(b"")
    assert data.find_files() == placed


def test_data_in_a_folder_with_chinese_and_a_space(monkeypatch, tmp_path):
    """The page's way of naming it, in code; what is written goes there, too."""
    folder = tmp_path / "数据 集"
    sample = Path(ROOT / "tests/data")
    shutil.copytree(sample, folder)
    monkeypatch.setenv("D2LMINI_DATA", "")
    exec(python_block("import os").replace(r"D:\我的数据", str(folder)), {})
    train_iter, test_iter = d2l.load_data_fashion_mnist(8)
    net = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    path = folder / "断点 1.pt"
    d2l.train_ch6(net, train_iter, test_iter, 1, 0.1, "cpu", checkpoint=path)
    torch.save(net.state_dict(), folder / "权重.pt")
    assert path.is_file() and torch.load(path)["state"]["net"].keys() == net.state_dict().keys()


def test_the_trainers_words_are_quoted(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    batches = [(torch.rand(4, 1, 8, 8), torch.tensor([0, 1, 2, 0]))]

    def train(lr, num_epochs=10):
        net = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
        arguments = {"seed": 0, "checkpoint": "alexnet.pt"}
        return d2l.train_ch6(net, batches, batches, num_epochs, lr, "cpu", **arguments)

    for num_epochs in (3, 10, 10):
        train(0.1, num_epochs)
    out = capsys.readouterr().out
    assert any(quotes(line) for line in out.splitlines() if "nothing is trained" in line)
    told = re.search(r"going on from the checkpoint, 3 epochs done", out)[0]
    assert f"`{told}`" in TROUBLE
    with pytest.raises(ValueError) as error:
        train(0.2)
    assert quotes(str(error.value))

    X = torch.empty(128, 1, 224, 224, device="meta")
    with pytest.raises(RuntimeError) as error:
        checks.raise_explained(RuntimeError("CUDA out of memory."), "train_iter", None, X)
    assert quotes(str(error.value))


def test_a_torch_without_cuda_is_quoted(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(device, "NVIDIA_CARDS", tmp_path)
    assert quotes(device.cuda_missing())


def test_the_install_cells_words_are_quoted():
    assert quotes("".join(re.findall(r"'(.+)'\)?$", set_repository.install_cell(), re.M)))


def test_commands_are_those_of_the_readme_in_every_shell():
    """The pages are for those who run the book: they install what README's test command does."""
    build, test = re.findall(r"^(python3 -m venv .*?) && (.*)$", ENGLISH, re.MULTILINE)
    assert "jupyter-book build ." in build[1] and test[1].endswith("pytest --nbval")
    install = [test[0], test[1].split(" && ")[0]]
    block = "\n".join(install) + "\n"
    root_page = (ROOT / "chapters/index.md").read_text("utf-8")
    assert all(f"```bash\n{block}" in text for text in (TROUBLE, root_page, ENGLISH))
    windows = block.replace(".venv/bin/", ".venv\\Scripts\\").replace("python3", "python")
    assert all(f"```powershell\n{windows}" in text for text in (TROUBLE, ENGLISH))
    trust = ".venv/bin/jupyter trust chapters/*.ipynb"
    assert all(trust in text for text in (TROUBLE, ENGLISH, CHINESE))


def test_python_versions_are_those_that_are_tested():
    oldest = re.search(r'requires-python = ">=(.*?)"', PROJECT)[1]
    workflow = (ROOT / ".github/workflows/test.yml").read_text("utf-8")
    versions = re.findall(r'"([\d.]+)"', re.search(r"python: \[(.*)\]", workflow)[1])
    assert versions[0] == oldest
    assert f"not in '>={oldest}'" in TROUBLE
    root_page = (ROOT / "chapters/index.md").read_text("utf-8")
    for text in (TROUBLE, CHINESE, root_page):
        assert f"Python {oldest}到{versions[-1]}" in text
    assert f"Python {oldest} to {versions[-1]}" in ENGLISH


def test_chinese_in_a_readers_own_plot(monkeypatch):
    """As the page says: matplotlib's default font lacks it; `show` needs no font."""
    with plt.rc_context({"font.family": ["DejaVu Sans"]}):
        fig, ax = plt.subplots()
        ax.set_title("图")
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            fig.canvas.draw()
        plt.close(fig)
    told = r"Glyph 22270 (\N{CJK UNIFIED IDEOGRAPH-56FE}) missing from"
    assert told in TROUBLE and any(told in str(warning.message) for warning in caught)

    shown = []
    monkeypatch.setattr(inline_svg, "display", shown.append)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        exec(python_block("import matplotlib"), {})
    assert ">轮数<" in shown[0].html and "训练损失</figcaption>" in shown[0].html


def test_fonts_named_are_fonts_that_the_helper_looks_for():
    section = TROUBLE.split("### 图里的中文变成方框")[1]
    fonts = set(re.findall(r"'([A-Z][A-Za-z ]+ [A-Za-z]+)'", section)) - {"DejaVu Sans"}
    assert len(fonts) == 3 and fonts <= set(inline_svg.CHINESE_FONTS)
    code = python_block("plt.rcParams").replace("Microsoft YaHei", "Noto Sans CJK JP")
    add = python_block("from matplotlib import font_manager")
    if not Path(re.search(r"'(/.*)'", add)[1]).is_file():
        pytest.skip("no fonts-noto-cjk here")
    exec(add, {})
    assert "Noto Sans CJK JP" in font_manager.get_font_names()
    with plt.rc_context(), warnings.catch_warnings():
        warnings.simplefilter("error")
        exec(code, {"plt": plt})
        fig, ax = plt.subplots()
        ax.set_title("图 −1")
        fig.canvas.draw()
        plt.close(fig)


# References and credit ---------------------------------------------------------------------------


def addresses(text):
    return set(re.findall(r"https://(?:arxiv\.org|papers\.nips\.cc)/[^\s)]+", text))


def test_every_paper_of_the_chapters_is_among_the_references():
    for name in notebooks.names():
        text = notebooks.prose(notebooks.path(name))
        assert addresses(text) <= addresses(REFERENCES), name
        assert "](references.md)" in text, name


def test_references_have_what_a_reader_needs():
    for line in REFERENCES.splitlines():
        if line.startswith("- "):
            assert re.search(r"\]\(https://\S+\)", line), line
            assert re.search(r"\b(19|20)\d\d\b", line), line
            for number in re.findall(r"arXiv:([\d.]+\d)", line):
                assert f"https://arxiv.org/abs/{number}" in line, line


def test_the_book_that_is_followed_is_named_where_one_looks():
    authors = ["Aston Zhang", "Zachary C. Lipton", "Mu Li", "Alexander J. Smola"]
    for name in ("README.md", "README.zh.md", "chapters/index.md"):
        text = " ".join((ROOT / name).read_text("utf-8").split())
        assert "Dive into Deep Learning" in text, name
        assert all(author in text for author in authors), name
    assert "## 出处与致谢" in (ROOT / "chapters/index.md").read_text("utf-8")


def test_citation_is_that_of_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    config = yaml.safe_load((ROOT / "_config.yml").read_text("utf-8"))
    assert citation["cff-version"] == "1.2.0"
    assert {"message", "title", "authors"} <= citation.keys()  # what the format asks for
    assert citation["title"] == config["title"]
    assert citation["authors"] == [{"name": config["author"]}]
    version = re.search(r'^version = "(.*)"', PROJECT, re.MULTILINE)[1]
    book = citation["preferred-citation"]
    assert citation["version"] == book["edition"] == version
    assert (book["title"], book["authors"]) == (citation["title"], citation["authors"])
    told = f"> {config['author']}. {config['title']}[EB/OL]. 版本{version}. {book['year']}."
    assert told in REFERENCES


# Both READMEs ------------------------------------------------------------------------------------


def test_readmes_are_as_complete():
    """The same commands and links, and as many sections; the sentences are free."""
    assert BLOCK.findall(ENGLISH) == BLOCK.findall(CHINESE)
    links = [
        {target for target in re.findall(r"(?:\]\(|<)([^)>#]+)", text) if "README" not in target}
        for text in (ENGLISH, CHINESE)
    ]
    assert links[0] == links[1], links[0] ^ links[1]
    assert ENGLISH.count("\n## ") == CHINESE.count("\n## ")


def test_readmes_lead_to_every_chapter():
    for name in notebooks.names():
        assert f"](chapters/{name}.ipynb)" in ENGLISH, name


def test_lists_of_packages_include_each_other():
    """Who runs the book can build it; who maintains it can do both."""
    lists = {
        name: (ROOT / name).read_text("utf-8").splitlines()
        for name in ("requirements.txt", "requirements-dev.txt")
    }
    assert "-r tools/site/requirements.txt" in lists["requirements.txt"]
    assert "-r requirements.txt" in lists["requirements-dev.txt"]
    for path in (ROOT / ".ci/run", ROOT / "README.md", ROOT / ".github/workflows/test.yml"):
        for name in re.findall(r"pip install[^\n]*? -r (\S+)", path.read_text("utf-8")):
            assert (ROOT / name).is_file(), (path, name)


def test_licences_are_files_of_their_own():
    """In this form GitHub and package indexes recognise them."""
    licence = (ROOT / "LICENSE").read_text("utf-8")
    assert licence.startswith("MIT License\n\nCopyright (c)") and licence.count("\n\n") == 4
    text = (ROOT / "chapters/LICENSE").read_text("utf-8")
    assert text.startswith("Attribution 4.0 International") and "\nSection 8 --" in text
    assert all(f"]({file})" in ENGLISH for file in ("LICENSE", "chapters/LICENSE"))
