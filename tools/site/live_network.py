"""A trained network at work on its chapter's page: what the build makes of live/.

The page gets a button (live/block.html). What the button loads are scripts, for a page read from a
disk can load nothing else: data-0.js with the layers, as the chapter's own drawing has them, and
the test images; data-1.js and so on with the weights that the recording tool rounded
(tools/weights.py), as base64; network.js, which computes, and page.js. The images are two a class:

    python tools/site/live_network.py FOLDER_WITH_THE_FOUR_GZ_FILES     writes them anew
"""

import base64
import gzip
import html
import json
import math
import re
import sys
from pathlib import Path

import jinja2
import nbformat
from docutils import nodes

ROOT, HERE = Path(__file__).resolve().parents[2], Path(__file__).with_name("live")
NAME, CELL = "googlenet", "ablation-after"  # the chapter, and the cell that the network follows
WEIGHTS = ROOT / f"recordings/weights/{NAME}.bin"
IMAGES = HERE / "test-images.bin"  # 28×28 bytes each: an image of each class, then another of each
CLASSES = ["T恤", "裤子", "套衫", "连衣裙", "外套", "凉鞋", "衬衫", "运动鞋", "包", "短靴"]
PARTS = 8  # scripts of about a megabyte, so that one sees them come
FILES = [f"data-{i}.js" for i in range(PARTS + 1)] + ["network.js", "page.js"]

render = jinja2.Environment(loader=jinja2.FileSystemLoader(HERE), trim_blocks=True).get_template


def drawn_network(notebook, weights):
    """The layers of the chapter's drawing of the network, and the last layer of each module.

    notebook: as nbformat reads it. weights: content of the file with the recorded weights. Layers
    are as in d2lmini/figures/layers.py, modules the drawing's outermost frames. (None, None) where
    no drawing has these weights: the chapter has changed since it was trained.
    """
    length = int.from_bytes(weights[:4], "little")
    sizes = [math.prod(entry["shape"]) for entry in json.loads(weights[4 : 4 + length])]
    sizes = [weight + bias for weight, bias in zip(sizes[::2], sizes[1::2], strict=True)]
    outputs = (output for cell in notebook.cells for output in cell.get("outputs", []))
    pages = "".join(output.get("data", {}).get("text/html", "") for output in outputs)
    for svg in re.findall(r"(?s)<svg.*?</svg>", pages):
        data = re.search(r"""data-net=(["'])(.*?)\1""", svg)
        net = json.loads(html.unescape(data[2])) if data else {"layers": []}
        if [layer["w"] for layer in net["layers"] if "w" in layer] == sizes:
            frames = re.findall(r'<g [^>]*data-of="([\d ]+)">', svg)
            return net, [int(frame.split()[-1]) for frame in frames]
    return None, None


def blocks_of(net, ends):
    """The blocks, [(their last layer, "3a")], and their paths, [(kind, "3×3")].

    A block joins paths; 3a is the first one of module 3. A path goes by its largest window.
    """
    joins = [i for i, layer in enumerate(net["layers"], start=1) if layer["op"] == "cat"]
    modules = [1 + sum(end < join for end in ends) for join in joins]
    names = [f"{m}{'abcdefgh'[modules[:i].count(m)]}" for i, m in enumerate(modules)]
    path_ends = net["layers"][joins[0] - 1]["from"]
    starts = [net["layers"][path_ends[0]]["from"][0], *path_ends]  # they run one after another
    largest = [max(net["layers"][start:end], key=lambda layer: layer.get("k", 0))
               for start, end in zip(starts, path_ends, strict=False)]  # fmt: skip
    paths = [(layer["op"], "池化" if layer["op"] == "pool" else f"{layer['k']}×{layer['k']}")
             for layer in largest]  # fmt: skip
    return list(zip(joins, names, strict=True)), paths


def add_block(app, doctree, docname):
    """Put the button into the chapter, after the last paragraph of the cell."""
    source = Path(app.env.doc2path(docname))
    if app.builder.format != "html" or source.name != f"{NAME}.ipynb":
        return
    notebook = nbformat.read(source, as_version=4)
    if not drawn_network(notebook, WEIGHTS.read_bytes())[0]:
        return
    cells = [cell.id for cell in notebook.cells]
    # MyST-NB counts ten thousand lines a cell
    *_, last = (p for p in doctree.findall(nodes.paragraph)
                if p.line and cells[p.line // 10000 - 1] == CELL)  # fmt: skip
    record = json.loads((ROOT / f"recordings/{NAME}.json").read_bytes())["record"]
    block = render("block.html").render(
        date=record["started"][:10],
        test_acc=record["test_acc"],
        rounded=record["rounded"]["test_acc"],
        network=notebook.metadata["chapter"]["network"],
        size=round(WEIGHTS.stat().st_size * 4 / 3 / 1e6),
        files=[f"{'../' * docname.count('/')}_static/live/{name}" for name in FILES],
    )
    # "live": no text of the chapter, and the search need not find it
    last.parent.insert(last.parent.index(last) + 1, nodes.raw("", block, format="html live"))


def write_files(app, error):
    """Write the scripts that the button loads."""
    if error or app.builder.name != "html":
        return
    content = WEIGHTS.read_bytes()
    net, ends = drawn_network(nbformat.read(ROOT / f"chapters/{NAME}.ipynb", 4), content)
    if not net:
        return
    blocks, paths = blocks_of(net, ends)
    style = (HERE / "style.css").read_text("utf-8")
    work = render("work.html").render(
        net=net, blocks=blocks, paths=paths, names=CLASSES, style=style
    )
    images = base64.b64encode(IMAGES.read_bytes()).decode()
    first = {"work": work, "net": net, "ends": ends, "names": CLASSES, "grey": images}
    weights = base64.b64encode(content).decode()
    size = -(-len(weights) // PARTS)
    folder = Path(app.outdir, "_static/live")
    folder.mkdir(exist_ok=True)
    for i, data in enumerate(
        [first, *(weights[i : i + size] for i in range(0, len(weights), size))]
    ):
        script = f"liveData.push({json.dumps(data, ensure_ascii=False)});\n"
        (folder / f"data-{i}.js").write_text(script, "utf-8")
    for name in ["network.js", "page.js"]:
        (folder / name).write_bytes((HERE / name).read_bytes())


def two_a_class(images, labels):
    """The pixels of the first image of each class, in order, and of the second of each.

    images, labels: contents of the data set's files (bytes), unpacked.
    """
    first = [labels.index(label, 8) for label in range(10)]
    second = [labels.index(label, i + 1) for label, i in enumerate(first)]
    return b"".join(images[16 + 784 * (i - 8) :][:784] for i in [*first, *second])


def setup(app):
    if WEIGHTS.exists():
        app.connect("doctree-resolved", add_block)
        app.connect("build-finished", write_files)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


if __name__ == "__main__":
    files = [f"t10k-{kind}-ubyte.gz" for kind in ("images-idx3", "labels-idx1")]
    IMAGES.write_bytes(
        two_a_class(*(gzip.decompress(Path(sys.argv[1], f).read_bytes()) for f in files))
    )
