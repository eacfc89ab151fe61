"""A network's weights, rounded, in one file that Python's standard library and JavaScript read.

The file is the head's length (4 bytes, little-endian), the head (JSON, UTF-8, padded with spaces to
a multiple of 4 bytes), then the numbers. The head lists the tensors of the state dict in order:
`name`, `shape`, `dtype` and `offset`, counted from the first number. "float32" stands as it is.
Of "int8" each output channel (the first axis) has its own factor, in `scales`: its weights are the
whole numbers from -127 to 127 times that.
"""

import json
import math
import struct
import sys
from array import array

LARGEST = 6_500_000  # bytes of a file that is committed


def size(state):
    """Bytes that the numbers of a state dict take in a file, about."""
    return sum(tensor.numel() for tensor in state.values())


def pack(state):
    """The file of a state dict: tensors of two axes or more as int8, the others as float32."""
    head, body = [], bytearray()
    for name, tensor in state.items():
        entry = {"name": name, "shape": list(tensor.shape), "offset": len(body)}
        tensor = tensor.detach().float().cpu()
        if tensor.dim() >= 2:
            scales = tensor.flatten(1).abs().amax(dim=1).clamp(min=1e-30) / 127
            whole = (tensor.flatten(1) / scales[:, None]).round()
            entry |= {"dtype": "int8", "scales": scales.tolist()}
            body += array("b", map(int, whole.flatten().tolist())).tobytes()
        else:
            entry["dtype"] = "float32"
            body += struct.pack(f"<{tensor.numel()}f", *tensor.flatten().tolist())
        body += bytes(-len(body) % 4)
        head.append(entry)
    text = json.dumps(head, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 4)
    return struct.pack("<I", len(text)) + text + bytes(body)


def unpack(content):
    """The tensors of a file: (name, shape, numbers as a flat `array` of floats) for each."""
    (length,) = struct.unpack_from("<I", content)
    for entry in json.loads(content[4 : 4 + length]):
        count, start = math.prod(entry["shape"]), 4 + length + entry["offset"]
        if entry["dtype"] == "int8":
            whole = array("b", content[start : start + count])
            per_channel = count // entry["shape"][0]
            numbers = array(
                "f", (w * entry["scales"][i // per_channel] for i, w in enumerate(whole))
            )
        else:
            numbers = array("f", content[start : start + 4 * count])
            if sys.byteorder == "big":
                numbers.byteswap()
        yield entry["name"], entry["shape"], numbers
