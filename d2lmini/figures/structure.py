"""What a network consists of: layers, groups of layers, and paths side by side.

`arrange` finds series and parallel paths from nothing but who takes whose output.
"""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["IN", "OUT", "Group", "Layer", "Parallel", "arrange", "layers_of"]

IN, OUT = "input", "output"  # stand among the layers for the network's own input and output


@dataclass(eq=False)
class Layer:
    """One call of a leaf module or function.

    `kind` is conv, pool, fc, elementwise, reshape, join, identity or other. `operation` and
    `settings` make its label in the field's notation, `facts` are (name, value) pairs such as
    ('步幅', '4'). `shape` is the output's without the batch axis; `params` counts parameters,
    `flops` those of one example.
    """

    name: str  # path inside the net, '' for a function
    kind: str
    operation: str
    settings: str = ""
    facts: tuple = ()
    shape: tuple = ()
    params: int = 0
    flops: int = 0
    operands: list = field(default_factory=list)  # for each tensor it takes: layer, IN or None
    rule: dict | None = None  # what it makes of a shape (see `rules`), None where not known
    groups: tuple = ()  # calls of the container modules around it, outermost first

    @property
    def inputs(self):
        """Layers (or IN) whose outputs it takes, without repetition; constants have none."""
        return list(dict.fromkeys(source for source in self.operands if source is not None))

    @property
    def label(self):
        if not self.settings:
            return self.operation
        return f"{self.operation}{' ' if self.settings.startswith('(') else ', '}{self.settings}"


@dataclass(eq=False)
class Group:
    """One call of a module with children. `items` (Layer, Group, Parallel) run one after another.

    `items` is None where the data flow is not made of series and parallel paths.
    """

    name: str
    class_name: str
    items: list | None = None
    layers: list = field(default_factory=list)  # all layers inside, in the order they ran
    other_params: int = 0  # of the root: parameters that no layer holds, such as position codes

    @property
    def params(self):
        return sum(layer.params for layer in self.layers) + self.other_params

    @property
    def flops(self):
        return sum(layer.flops for layer in self.layers)

    @property
    def shape(self):
        return self.layers[-1].shape if self.layers else ()


@dataclass(eq=False)
class Parallel:
    """Paths that start from one tensor and meet again in the item that follows."""

    paths: list  # of lists of items; an empty list is a skip connection

    @property
    def layers(self):
        return [layer for path in self.paths for layer in layers_of(path)]


def layers_of(items):
    """The layers in items, in order."""
    return [
        layer for item in items for layer in ([item] if isinstance(item, Layer) else item.layers)
    ]


def arrange(layers, outputs, depth=0):
    """Order the layers of one group into series and parallel items, or None if they are not that.

    `outputs` are the layers whose tensors leave the group, `depth` is the number of containers
    around it.
    """
    owner = {}  # layer -> the layer itself or the group directly below that holds it
    for layer in layers:
        owner[layer] = layer.groups[depth] if len(layer.groups) > depth else layer
    order = [IN, *dict.fromkeys(owner.values()), OUT]
    before = {unit: [] for unit in order}
    leaving = {unit: [] for unit in order}
    for layer in layers:
        for source in layer.inputs:
            source_unit = owner.get(source, IN)
            if source_unit is not owner[layer]:
                before[owner[layer]].append(source_unit)
                leaving[source_unit].append(source)
    for source in outputs:
        before[OUT].append(owner.get(source, IN))
        leaving[owner.get(source, IN)].append(source)
    for unit in order:
        if isinstance(unit, Group) and unit.items is None:
            unit.items = arrange(unit.layers, list(dict.fromkeys(leaving[unit])), depth + 1)
    return _series_parallel(order, {unit: list(dict.fromkeys(b)) for unit, b in before.items()})


def _series_parallel(order, before):
    """Items from IN to OUT. `order` lists the units (IN first, OUT last), `before` what feeds each.

    Units that the input does not reach or the output does not need are left out.
    """
    reached = {IN}
    for unit in order:
        if any(source in reached for source in before[unit]):
            reached.add(unit)
    needed = {OUT}
    for unit in reversed(order):
        if unit in needed:
            needed.update(before[unit])
    kept = [unit for unit in order if unit in reached and unit in needed]
    if IN not in kept or OUT not in kept:
        return None
    before = {unit: [source for source in before[unit] if source in kept] for unit in kept}
    after = {unit: [target for target in kept if unit in before[target]] for unit in kept}
    # Post-dominators: the units that every way from here to the output passes, nearest first.
    passed = {OUT: [OUT]}
    for unit in reversed(kept[:-1]):
        common = set.intersection(*(set(passed[target]) for target in after[unit]))
        passed[unit] = [unit, *(target for target in kept if target in common)]
    seen = []

    def series(unit, end):
        items = []
        while unit is not end:
            if unit in seen:
                raise _NotSeriesParallel
            if unit is not IN:
                seen.append(unit)
                items.append(unit)
            if len(after[unit]) == 1:
                unit = after[unit][0]
            else:
                join = passed[unit][1]
                items.append(Parallel(parallel(unit, join)))
                unit = join
        return items

    def parallel(fork, join):
        """The paths from fork to join, in the order in which the join takes them."""
        paths = []
        for target in after[fork]:
            start = len(seen)
            path = series(target, join)
            ends = [
                before[join].index(unit)
                for unit in (seen[start:] if path else [fork])
                if unit in before[join]
            ]
            if all(layer.kind == "identity" for layer in layers_of(path)):
                path = []  # a shortcut on which nothing happens
            paths.append((min(ends), path))
        return [path for _, path in sorted(paths, key=lambda pair: pair[0])]

    try:
        items = series(IN, OUT)
    except _NotSeriesParallel:
        return None
    return items if len(seen) == len(kept) - 2 else None


class _NotSeriesParallel(Exception):
    """Paths cross: the data flow cannot be drawn as columns side by side."""
