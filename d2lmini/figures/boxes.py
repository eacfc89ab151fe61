"""From layers to boxes: what of a traced network becomes a box, a frame or branches.

`boxes_of` turns the items of a trace into elements: `Box`, `Frame`, `Branches`. Equal neighbours
become one element with `times`; functions of single values (ReLU, dropout) become strips of the box
before them.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from d2lmini.figures.structure import Group, Layer, Parallel, layers_of
from d2lmini.figures.style import drawn_kind

__all__ = ["Box", "Branches", "Frame", "alternative_text", "box_of_group", "boxes_in", "boxes_of"]


@dataclass
class Box:
    """A box: one layer (or a whole module) and the elementwise layers that follow it."""

    kind: str  # one of style.KINDS
    operation: str  # this and `settings` as in structure.Layer
    settings: str = ""
    facts: tuple = ()
    layers: list = field(default_factory=list)
    strips: list = field(default_factory=list)  # names of the elementwise layers
    paths: list | None = None  # of a module: kinds of its layers, and channels, for each path
    times: int = 1

    @property
    def label(self):
        return Layer("", self.kind, self.operation, self.settings).label

    @property
    def shape(self):
        return self.layers[-1].shape if self.layers else ()

    @property
    def is_slim(self):
        """Whether a low box will do: it only reshapes, or applies a function to each element."""
        return bool(self.layers) and self.layers[0].kind in ("reshape", "elementwise")

    def signature(self):
        """What equal boxes have in common."""
        shape = self.shape[1:] if self.kind == "module" else self.shape
        return self.label, tuple(self.strips), shape, repr(self.paths)


@dataclass
class Frame:
    """A dashed frame around the elements of one group."""

    group: Group
    elements: list
    times: int = 1

    def signature(self):
        return tuple(element.signature() for element in self.elements)


@dataclass
class Branches:
    """Paths side by side, and the box that joins them (None: each is an output of its own)."""

    paths: list  # of lists of elements
    join: Box | None = None

    def signature(self):
        return tuple(element.signature() for path in self.paths for element in path)


def boxes_of(items, detail, framed=True):
    """Turn items of a trace into elements; fold equal neighbours.

    detail: how a group with parallel paths is drawn: with all its "paths", as a box that shows them
    and their "widths", or as one that only has its "name" and their number.
    """
    elements = []
    for item in items:
        last = elements[-1] if elements else None
        host = last.join if isinstance(last, Branches) else last if isinstance(last, Box) else None
        if isinstance(item, Parallel):
            elements.append(Branches([boxes_of(path, detail, framed=False) for path in item.paths]))
        elif isinstance(item, Group):
            elements += _elements_of_group(item, detail, framed)
        elif item.kind == "join" and isinstance(last, Branches) and last.join is None:
            last.join = _box_of_layer(item)
        elif item.kind == "elementwise" and host:
            host.strips.append(item.label)
            host.layers.append(item)
        else:
            elements.append(_box_of_layer(item))
    return _fold(elements)


def box_of_group(group):
    """One plain box for a whole group."""
    return Box("other", group.class_name, layers=list(group.layers))


def _box_of_layer(layer):
    kind = drawn_kind(layer.kind)
    return Box(kind, layer.operation, layer.settings, layer.facts, [layer])


def _elements_of_group(group, detail, framed):
    """One box, a frame, or (inside a path, or for a single box) the elements without a frame."""
    if group.items is None:
        return [box_of_group(group)]
    parallel = next((item for item in group.items if isinstance(item, Parallel)), None)
    if parallel and detail != "paths":
        paths, channels = list(map(_kinds_and_channels, parallel.paths)), ""
        if detail == "widths":
            channels = f"({group.shape[0]})"
        else:
            paths = [(kinds, "") for kinds, _ in paths]
        return [Box("module", group.class_name, channels, layers=list(group.layers), paths=paths)]
    elements = boxes_of(group.items, detail, framed)
    return [Frame(group, elements)] if framed and (parallel or len(elements) > 1) else elements


def _kinds_and_channels(path):
    """The kinds of the boxes on a path and the number of channels at its end."""
    layers = layers_of(path)
    kinds = [drawn_kind(layer.kind) for layer in layers if layer.kind != "elementwise"]
    return kinds, str(layers[-1].shape[0]) if layers else ""


def _fold(elements):
    """Merge equal neighbours into one element with `times`."""
    folded = []
    for element in elements:
        last = folded[-1] if folded else None
        if (
            isinstance(element, (Box, Frame))
            and type(last) is type(element)
            and (last.signature() == element.signature())
        ):
            last.times += 1
            for box, other in zip(boxes_in([last]), boxes_in([element]), strict=True):
                box.layers += other.layers  # a folded box stands for all of them
        else:
            folded.append(element)
    return folded


def boxes_in(elements, in_branches=True):
    """All boxes in elements, in their order; `in_branches=False` leaves those in branches out."""
    for element in elements:
        if isinstance(element, Box):
            yield element
        elif isinstance(element, Frame):
            yield from boxes_in(element.elements, in_branches)
        elif in_branches:
            for path in element.paths:
                yield from boxes_in(path)
            if element.join:
                yield element.join


def alternative_text(elements):
    """Elements in words."""
    words = []
    for element in elements:
        if isinstance(element, Branches):
            paths = "；".join(
                f"第{i}条：{alternative_text(path) or '直接相连'}"
                for i, path in enumerate(element.paths, 1)
            )
            joined = f"，经{element.join.label}合并" if element.join else ""
            words.append(f"{len(element.paths)}条并行路径（{paths}）{joined}")
            continue
        if isinstance(element, Box):
            text = "、".join([element.label, *element.strips])
        else:
            text = f"[{alternative_text(element.elements)}]"
        words.append(text + (f"（×{element.times}）" if element.times > 1 else ""))
    return "；".join(words)
