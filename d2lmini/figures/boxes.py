"""From layers to boxes: what of a traced network becomes a box, a frame or branches.

`boxes_of` turns the items of a trace into elements: `Box`, `Frame`, `Branches`. Equal neighbours
become one element with `times`; functions of single values (ReLU, dropout) become strips of the box
before them.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from d2lmini.figures.structure import Group, Layer, Parallel, layers_of
from d2lmini.figures.style import drawn_kind

MOST_BARS = 4  # layers on a path that a small picture of the path shows


@dataclass
class Box:
    """A box: one layer (or a whole module) and the elementwise layers that follow it."""

    head: Layer  # says its kind and label
    layers: list  # all that it stands for
    facts: tuple = ()  # of a folded box: those that all its layers have
    strips: list = field(default_factory=list)  # the elementwise layers, of the first where folded
    paths: list | None = None  # of a module: kinds of its layers, and channels, for each path
    times: int = 1

    @property
    def kind(self):
        return drawn_kind(self.head.kind)

    @property
    def label(self):
        return self.head.label

    @property
    def shape(self):
        return self.layers[-1].shape if self.layers else ()

    @property
    def is_slim(self):
        """Whether a low box will do: it only reshapes, or applies a function to each element."""
        return self.head.kind in ("reshape", "elementwise")

    def signature(self):
        """What equal boxes have in common: all but what goes in, and a module's channels."""
        facts = [fact for fact in self.facts if fact[0] != "输入特征"]
        strips = [(strip.label, strip.options) for strip in self.strips]
        shape = self.shape[1:] if self.kind == "module" else self.shape
        return self.label, facts, self.head.options, strips, shape, self.paths


@dataclass
class Frame:
    """A dashed frame around the elements of one group."""

    group: Group
    elements: list
    times: int = 1

    def signature(self):
        return self.group.class_name, _signatures(self.elements)


@dataclass
class Branches:
    """Paths side by side, and the box that joins them.

    Without a box their ends meet in a line or, where `is_end`, are the outputs of the net.
    """

    paths: list  # of lists of elements
    join: Box | None = None
    is_end: bool = False
    times: int = 1  # they do not fold

    def signature(self):
        return list(map(_signatures, self.paths)), self.join and self.join.signature()


def _signatures(elements):
    return [(element.times, element.signature()) for element in elements]


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
        elif isinstance(last, Branches) and not last.join and len(item.inputs) > 1:
            last.join = _box_of_layer(item)
            _flatten_sum(last)
        elif item.kind == "elementwise" and host and host.times == 1:
            host.strips.append(item)
            host.layers.append(item)
        else:
            elements.append(_box_of_layer(item))
    return _fold(elements)


def box_of_group(group):
    """One plain box for a whole group, which says how many layers it stands for."""
    num = f"({len(group.layers)}层)" if len(group.layers) > 1 else ""
    kind = group.layers[0].kind if len(group.layers) == 1 else "module"
    return Box(Layer("", kind, group.class_name, num), list(group.layers))


def _box_of_layer(layer):
    facts = layer.facts + (("权重", "与前面的层共用"),) * layer.is_shared
    return Box(layer, [layer], facts)


def _flatten_sum(branches):
    """(a + b) + c as one sum of three paths."""
    for i, path in enumerate(branches.paths):
        if len(path) == 1 and isinstance(path[0], Branches) and path[0].join:
            inner, join = path[0], branches.join
            if inner.join.label == join.label == "Add" and not inner.join.strips:
                branches.paths[i : i + 1] = inner.paths
                join.layers = inner.join.layers + join.layers
                return


def _elements_of_group(group, detail, framed):
    """One box, a frame, or (inside a path, or for a single box) the elements without a frame."""
    if group.items is None:
        return [box_of_group(group)]
    forks = any(isinstance(item, Parallel) for item in group.items)
    if forks and detail != "paths":
        layers, paths = list(layers_of([group])), _small_paths(group.items)
        settings = f"({group.shape[0]})" if detail == "widths" and group.shape else ""
        if paths is None:
            settings = f"({len(layers)}层)"
        elif detail == "name":
            paths = [(kinds, "") for kinds, _ in paths]
        return [Box(Layer("", "module", group.class_name, settings), layers, paths=paths)]
    elements = boxes_of(group.items, detail, framed)
    return [Frame(group, elements)] if framed and (forks or len(elements) > 1) else elements


def _small_paths(items):
    """Kinds of the boxes and channels at the end of each path of a group that is nothing but paths
    and their join, as long as they are few; else None."""
    fork, *rest = items
    joined = rest and isinstance(rest[0], Layer) and len(rest[0].inputs) > 1
    if not isinstance(fork, Parallel) or not joined or any(map(forks_in, fork.paths)):
        return None
    if any(not isinstance(item, Layer) or item.kind != "elementwise" for item in rest[1:]):
        return None
    paths = []
    for path in fork.paths:
        layers = list(layers_of(path))
        kinds = [drawn_kind(layer.kind) for layer in layers if layer.kind != "elementwise"]
        paths.append((kinds, str(layers[-1].shape[0]) if layers and layers[-1].shape else ""))
    return paths if max(len(kinds) for kinds, _ in paths) <= MOST_BARS else None


def forks_in(items):
    """How many forks there are in items, and in the groups among them."""
    paths = [path for item in items if isinstance(item, Parallel) for path in item.paths]
    groups = [item.items or [] for item in items if isinstance(item, Group)]
    return bool(paths) + sum(map(forks_in, paths + groups))


def _fold(elements):
    """Merge equal neighbours into one element with `times`."""
    folded = []
    for element in elements:
        last = folded[-1] if folded else None
        foldable = type(last) is type(element) and not isinstance(element, Branches)
        if not foldable or last.signature() != element.signature():
            folded.append(element)
            continue
        last.times += element.times
        for box, other in zip(boxes_in([last]), boxes_in([element]), strict=True):
            box.layers += other.layers  # a folded box stands for all of them
            box.facts = tuple(fact for fact in box.facts if fact in other.facts)
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
        if isinstance(element, Box):
            text = "、".join([element.label, *(strip.label for strip in element.strips)])
        elif isinstance(element, Frame):
            text = f"[{alternative_text(element.elements)}]"
        else:
            paths = enumerate(map(alternative_text, element.paths), start=1)
            paths = [f"第{i}条：{path or '直接相连'}" for i, path in paths]
            text = f"{len(paths)}条并行路径（{'；'.join(paths)}）"
            text += f"，经{element.join.label}合并" if element.join else ""
        words.append(text + (f"（×{element.times}）" if element.times > 1 else ""))
    return "；".join(words)
