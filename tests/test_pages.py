"""The pages beside the chapters: what goes wrong, references and credit, and both READMEs."""

import re

import pytest
import torch
import yaml
from torch import nn
from torchvision.datasets import FashionMNIST

import d2lmini as d2l
from d2lmini import checks, data, device
from tools import files, notebooks, set_repository

ROOT = notebooks.ROOT


def read(name):
    return (ROOT / name).read_text("utf-8")


TROUBLE, REFERENCES, INDEX = (
    read(f"chapters/{name}.md") for name in ("trouble", "references", "index")
)
ENGLISH, CHINESE, PROJECT = map(read, ("README.md", "README.zh.md", "pyproject.toml"))
BLOCK = re.compile(r"^ *```(\w+)\n(.*?)^ *```$", re.DOTALL | re.MULTILINE)
QUOTED = [
    re.sub(r"^\w+(Error|Warning): ", "", line.strip())
    for kind, block in BLOCK.findall(TROUBLE)
    for line in block.splitlines()
    if kind == "text" and " " in line.strip()
]


def quoted(message):
    """Whether a line that the page shows is in a message; an ellipsis stands for anything."""
    return any(all(part.strip() in message for part in line.split("…")) for line in QUOTED)


# What goes wrong ---------------------------------------------------------------------------------


def test_minutes_on_a_cpu_are_those_of_the_records():
    """An epoch with its evaluation: the fastest and the slowest, rounded."""
    for chapter in notebooks.chapters():
        content = files.read_json(ROOT / f"recordings/{chapter.name}.json")
        if not content or not content["record"]["device"].startswith("cpu"):
            continue  # not recorded yet, or on a GPU
        history = content["histories"][0]
        pairs = zip(history["train_seconds"], history["test_seconds"], strict=True)
        minutes = [round((train + test) / 60) for train, test in pairs]
        told = "到".join(map(str, sorted({min(minutes), max(minutes)})))
        label = chapter.label.split(" /")[0]
        row = rf"(?m)^\| \S*{label}（{chapter.side}） \| {told} \| {history['precision']} \|"
        assert re.search(row, TROUBLE), f"chapters/trouble.md: {chapter.name} takes {told} minutes"


def missing_data(monkeypatch, folder):
    def refuse(*_args, **_options):
        raise RuntimeError("no network")

    monkeypatch.setattr(data, "download_url", refuse)
    monkeypatch.setattr(data, "DEBIAN_FOLDER", folder / "none")
    data.find_files(folder)


def damaged_data(monkeypatch, folder):
    for name in data.CHECKSUMS:  # what a browser may save instead of the file
        (folder / name).write_bytes(b"<html>")
    d2l.load_data_fashion_mnist(4, root=folder)


def out_of_memory(*_):
    X = torch.empty(128, 1, 224, 224, device="meta")
    checks.raise_explained(RuntimeError("CUDA out of memory."), "train_iter", None, X)


def torch_without_cuda(monkeypatch, folder):
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(device, "NVIDIA_CARDS", folder)
    raise RuntimeError(device.cuda_missing())


def nothing_installed(*_):
    raise RuntimeError("".join(re.findall(r"'(.+)'\)?$", set_repository.install_cell(), re.M)))


def train(lr, num_epochs=10):
    batches = [(torch.rand(4, 1, 8, 8), torch.tensor([0, 1, 2, 0]))]
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    d2l.train_ch6(net, batches, batches, num_epochs, lr, "cpu", seed=0, checkpoint="alexnet.pt")


def other_checkpoint(monkeypatch, folder):
    monkeypatch.chdir(folder)
    train(0.1, 1)
    train(0.2)


@pytest.mark.parametrize(
    "fault",
    [missing_data, damaged_data, out_of_memory, torch_without_cuda, nothing_installed,
     other_checkpoint],
)  # fmt: skip
def test_what_is_raised_is_quoted(fault, monkeypatch, tmp_path):
    with pytest.raises((RuntimeError, FileNotFoundError, ValueError)) as error:
        fault(monkeypatch, tmp_path)
    assert quoted(str(error.value))


def test_what_the_trainer_prints_is_quoted(tmp_path, capsys, monkeypatch):
    folder = tmp_path / "断点 1"  # its paths may have Chinese and spaces, the page says
    folder.mkdir()
    monkeypatch.chdir(folder)
    for num_epochs in (3, 10, 10):
        train(0.1, num_epochs)
    out = capsys.readouterr().out
    assert any(quoted(line) for line in out.splitlines() if "nothing is trained" in line)
    assert f"`{re.search('going on .* done', out)[0]}`" in TROUBLE


def test_files_are_those_that_are_looked_for():
    section = TROUBLE.split("### 数据集下载不下来")[1].split("###")[0]
    names = re.findall(r"^ +(\S+\.gz)$", section, re.MULTILINE)
    assert names == list(data.CHECKSUMS)
    assert any(f"]({mirror}{names[0]})" in section for mirror in FashionMNIST.mirrors)


def test_commands_are_those_of_the_readme_in_every_shell():
    """The pages are for those who run the book: they install what README's test command does."""
    build, test = re.findall(r"^(python3 -m venv .*?) && (.*)$", ENGLISH, re.MULTILINE)
    assert "jupyter-book build ." in build[1] and test[1].endswith("pytest --nbval")
    block = f"{test[0]}\n{test[1].split(' && ')[0]}\n"
    assert all(f"```bash\n{block}" in text for text in (TROUBLE, INDEX, ENGLISH))
    windows = block.replace(".venv/bin/", ".venv\\Scripts\\").replace("python3", "python")
    assert all(f"```powershell\n{windows}" in text for text in (TROUBLE, ENGLISH))
    trust = ".venv/bin/jupyter trust chapters/*.ipynb"
    assert all(trust in text for text in (TROUBLE, ENGLISH, CHINESE))


def test_python_versions_are_those_that_are_tested():
    oldest = re.search(r'requires-python = ">=(.*?)"', PROJECT)[1]
    workflow = read(".github/workflows/test.yml")
    versions = re.findall(r'"([\d.]+)"', re.search(r"python: \[(.*)\]", workflow)[1])
    assert versions[0] == oldest and f"not in '>={oldest}'" in TROUBLE
    assert all(f"Python {oldest}到{versions[-1]}" in text for text in (TROUBLE, CHINESE, INDEX))
    assert f"Python {oldest} to {versions[-1]}" in ENGLISH


# References, READMEs -----------------------------------------------------------------------------


def test_citation_is_that_of_this_version():
    citation, config = (yaml.safe_load(read(name)) for name in ("CITATION.cff", "_config.yml"))
    version = re.search(r'^version = "(.*)"', PROJECT, re.MULTILINE)[1]
    book = citation["preferred-citation"]
    assert citation["version"] == book["edition"] == version
    for work in (citation, book):
        assert (work["title"], work["authors"]) == (config["title"], [{"name": config["author"]}])
    told = f"> {config['author']}. {config['title']}[EB/OL]. 版本{version}. {book['year']}."
    assert told in REFERENCES


def test_readmes_are_as_complete():
    """The same commands and links, and as many sections; the sentences are free."""
    assert BLOCK.findall(ENGLISH) == BLOCK.findall(CHINESE)
    english, chinese = (
        {target for target in re.findall(r"(?:\]\(|<)([^)>#]+)", text) if "README" not in target}
        for text in (ENGLISH, CHINESE)
    )
    assert english == chinese, english ^ chinese
    assert english >= {f"chapters/{name}.ipynb" for name in notebooks.names()}
    assert ENGLISH.count("\n## ") == CHINESE.count("\n## ")


def test_pages_link_to_nothing_that_is_missing():
    for page in [*ROOT.glob("*.md"), *ROOT.glob("chapters/*.md")]:
        for target in re.findall(r"\]\(([^)#]+)", page.read_text("utf-8")):
            assert target.startswith("http") or (page.parent / target).exists(), (page, target)
