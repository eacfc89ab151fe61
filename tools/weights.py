"""A network's weights, rounded, in one file that JavaScript reads as easily as Python.

The file is the head's length (4 bytes, little-endian), the head (JSON, UTF-8, padded with spaces to
a multiple of 4 bytes), then the numbers. The head lists the tensors of the state dict in order:
`name`, `shape`, `dtype` and `offset`, counted from the first number. "float32" stands as it is.
Of "int8" each output channel (the first axis) has its own factor, in `scales`: its weights are the
whole numbers from -127 to 127 times that.
"""

import json
import math
import struct

import numpy as np
import torch

LARGEST = 6_500_000  # numbers, of a byte mostly, in a file that is committed


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
            body += whole.numpy().astype("i1").tobytes()
        else:
            entry["dtype"] = "float32"
            body += tensor.numpy().astype("<f4").tobytes()
        body += bytes(-len(body) % 4)
        head.append(entry)
    text = json.dumps(head, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 4)
    return struct.pack("<I", len(text)) + text + bytes(body)


def unpack(content):
    """The tensors of a file: pairs of name and float32 tensor."""
    (length,) = struct.unpack_from("<I", content)
    for entry in json.loads(content[4 : 4 + length]):
        kind = {"int8": "i1", "float32": "<f4"}[entry["dtype"]]
        count, start = math.prod(entry["shape"]), 4 + length + entry["offset"]
        numbers = np.frombuffer(content, kind, count, start).astype("f4")
        if "scales" in entry:
            numbers = numbers.reshape(len(entry["scales"]), -1)
            numbers *= np.array(entry["scales"], "f4")[:, None]
        yield entry["name"], torch.from_numpy(numbers).reshape(entry["shape"])
