"""Write tests/data: the first 32 training and 16 test images of Fashion-MNIST, in its own format.

    python tools/make_sample.py FOLDER_WITH_THE_FOUR_GZ_FILES

Fashion-MNIST is (c) 2017 Zalando SE, MIT licence, https://github.com/zalandoresearch/fashion-mnist.
"""

import gzip
import hashlib
import sys
from pathlib import Path

TARGET = Path(__file__).parents[1] / "tests" / "data" / "FashionMNIST" / "raw"
NUM_SAMPLES = {"train": 32, "t10k": 16}


def shorten(content, num_samples):
    """The first items of an IDX file of bytes: 4 bytes of type, a 4-byte size a dimension, data."""
    num_dims = content[3]
    header = 4 + 4 * num_dims
    item_size = (len(content) - header) // int.from_bytes(content[4:8], "big")
    sizes = num_samples.to_bytes(4, "big") + content[8:header]
    return content[:4] + sizes + content[header : header + num_samples * item_size]


def main(source):
    TARGET.mkdir(parents=True, exist_ok=True)
    sums = []
    for split, num_samples in NUM_SAMPLES.items():
        for name in (f"{split}-images-idx3-ubyte.gz", f"{split}-labels-idx1-ubyte.gz"):
            content = gzip.decompress((Path(source) / name).read_bytes())
            sample = shorten(content, num_samples)
            (TARGET / name).write_bytes(gzip.compress(sample, mtime=0))
            sums.append(f"{hashlib.md5(sample).hexdigest()}  {name}\n")  # of the unpacked content
    (TARGET / "MD5SUMS").write_text("".join(sums))


if __name__ == "__main__":
    main(sys.argv[1])
