"""Write tests/data: of each class the first training and the first test image of Fashion-MNIST.

    python tools/make_sample.py FOLDER_WITH_THE_FOUR_GZ_FILES

Ten images each, in the order and the format of the data set, are the fewest that bring every class
through every cell. Fashion-MNIST is (c) 2017 Zalando SE, MIT licence,
https://github.com/zalandoresearch/fashion-mnist.
"""

import gzip
import hashlib
import sys
from pathlib import Path

TARGET = Path(__file__).parents[1] / "tests" / "data" / "FashionMNIST" / "raw"


def split_idx(content):
    """The type (4 bytes), the sizes of an item and the items of an IDX file of bytes."""
    num_items, first = int.from_bytes(content[4:8], "big"), 4 + 4 * content[3]
    item_size = (len(content) - first) // num_items
    items = [content[first + i * item_size :][:item_size] for i in range(num_items)]
    return content[:4], content[8:first], items


def write_idx(path, kind, sizes, items):
    """Write a gzipped IDX file; return the line of MD5SUMS for its content."""
    content = kind + len(items).to_bytes(4, "big") + sizes + b"".join(items)
    path.write_bytes(gzip.compress(content, mtime=0))
    return f"{hashlib.md5(content).hexdigest()}  {path.name}\n"


def main(source):
    TARGET.mkdir(parents=True, exist_ok=True)
    sums = ""
    for split in ("train", "t10k"):
        names = (f"{split}-images-idx3-ubyte.gz", f"{split}-labels-idx1-ubyte.gz")
        files = [split_idx(gzip.decompress(Path(source, name).read_bytes())) for name in names]
        labels = files[1][2]
        chosen = sorted(map(labels.index, set(labels)))
        for name, (kind, sizes, items) in zip(names, files, strict=True):
            sums += write_idx(TARGET / name, kind, sizes, [items[i] for i in chosen])
    (TARGET / "MD5SUMS").write_text(sums)


if __name__ == "__main__":
    main(sys.argv[1])
