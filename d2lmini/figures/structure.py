"""What a network consists of: layers, groups of layers, and paths side by side.

`arrange` finds series and parallel paths from nothing but who takes whose output, by reduction
(Valdes, Tarjan and Lawler, 1982): a unit with one way in and one way out becomes part of a longer
way, ways between the same two units become parallel paths, until one way is left. A group in which
paths cross is left whole.
"""

from __future__ import annotations

from dataclasses import dataclass, field

IN, OUT = "input", "output"  # stand among the layers for the network's own input and output


@dataclass(eq=False)
class Layer:
    """One call of a leaf module or function.

    `kind` is conv, pool, fc, elementwise, reshape, join, identity or other. `operation` and
    `settings` make its label in the field's notation, `facts` are (name, value) pairs such as
    ('步幅', '4'), `options` is what else tells it from others of its label. `shape` is that of the
    first output without the batch axis; `params` counts parameters, of weights used before none,
    `flops` those of one example: two for each multiply-add of convolutions and matrix products.
    """

    name: str  # path inside the net, '' for a function
    kind: str = "other"
    operation: str = ""
    settings: str = ""
    facts: tuple = ()
    options: str = ""
    shape: tuple = ()
    params: int = 0
    flops: int = 0
    is_shared: bool = False  # all its weights have served before
    # For each tensor that it takes: layer, IN or None.
    operands: list = field(default_factory=list, repr=False)
    rule: dict | None = None  # what it makes of a shape (see `layers`), None where not known
    groups: tuple = field(default=(), repr=False)  # calls of the containers around it, from outside

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

    `items` is None where the data flow is not made of series and parallel paths: it is drawn whole.
    """

    name: str
    class_name: str
    depth: int = 0  # how many containers there are around its layers
    items: list | None = None
    layers: list = field(default_factory=list, repr=False)  # all inside, in the order they ran
    # Of the root:
    other_params: int = 0  # parameters that no layer holds, such as those that are not used
    input_shapes: list = field(default_factory=list)  # without the batch axis
    outputs: list = field(default_factory=list)  # of each tensor: layer (or IN), shape

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


def layers_of(items):
    """The layers in items, in order; of a group those that its own items have."""
    for item in items:
        if isinstance(item, Layer):
            yield item
        elif isinstance(item, Parallel):
            for path in item.paths:
                yield from layers_of(path)
        else:
            yield from item.layers if item.items is None else layers_of(item.items)


def arrange(layers, outputs, depth=0):
    """Order the layers of one group into series and parallel items, or None if they are not that.

    `outputs` are the layers whose tensors leave the group, `depth` is the number of containers
    around it. Layers that the input does not reach or the output does not need are left out, and
    a group that takes or gives tensors of several layers is open: its layers stand for themselves.
    """
    opened = set()
    while True:
        owner = {}  # the layer itself or the outermost closed group that holds it
        for layer in layers:
            owner[layer] = next((x for x in layer.groups[depth:] if x not in opened), layer)
        before = {unit: {} for unit in (IN, *owner.values(), OUT)}  # who feeds it, as it takes them
        taken, leaving = ({unit: {} for unit in before} for _ in range(2))
        takes = [(owner[layer], source) for layer in layers for source in layer.inputs]
        for unit, source in (*takes, *((OUT, source) for source in outputs)):
            if owner.get(source, IN) is not unit:
                before[unit][owner.get(source, IN)] = taken[unit][source] = True
                leaving[owner.get(source, IN)][source] = True
        groups = [unit for unit in before if isinstance(unit, Group)]
        several = {unit for unit in groups if len(taken[unit]) > 1 or len(leaving[unit]) > 1}
        if not several:
            break
        opened |= several
    for unit in groups:
        unit.items = arrange(unit.layers, list(leaving[unit]), unit.depth)
    reached, needed = {IN}, {OUT}
    for unit in before:
        if not reached.isdisjoint(before[unit]):
            reached.add(unit)
    for unit in reversed(before):
        if unit in needed:
            needed.update(before[unit])
    order = [unit for unit in before if unit in reached and unit in needed]
    return _reduce(order, before) if {IN, OUT} <= set(order) else None


def _reduce(order, before):
    """Items from IN to OUT. `order` lists units in the order they ran, `before` who feeds each."""
    ways = {unit: {} for unit in order}  # from, to -> [(place among what `to` takes, items)]
    sources = {unit: set() for unit in order}
    for target in order:
        for place, unit in enumerate(u for u in before[target] if u in ways):
            ways[unit][target] = [(place, [])]
            sources[target].add(unit)
    waiting = order[-2:0:-1]
    while waiting:
        unit = waiting.pop()
        if unit not in ways or len(sources[unit]) != 1 or len(ways[unit]) != 1:
            continue
        (start,), ((end, onwards),) = sources.pop(unit), ways.pop(unit).items()
        items = [*_join(ways[start].pop(unit)), unit, *_join(onwards)]
        ways[start].setdefault(end, []).append((min(place for place, _ in onwards), items))
        sources[end] = sources[end] - {unit} | {start}
        waiting += [x for x in (start, end) if x not in (IN, OUT)]
    return _join(ways[IN][OUT]) if ways.keys() == {IN, OUT} else None


def _join(ways):
    """The items of several ways between the same two units, in the order in which the end takes
    them."""
    paths = [path for _, path in sorted(ways, key=lambda way: way[0])]
    if len(paths) == 1:
        return paths[0]
    for i, path in enumerate(paths):
        if all(layer.kind == "identity" for layer in layers_of(path)):
            paths[i] = []  # a shortcut on which nothing happens
    return [Parallel(paths)]


def network_data(root):
    """A traced network for the site's script, or None where a part of it is not known.

        {"c": 1, "side": 28, "layers": [
            {"op": "conv", "k": 5, "p": 2, "o": 6, "w": 156},
            {"op": "same"},
            {"op": "pool", "k": 2, "s": 2}, ...]}

    c, side     the input is c×side×side
    layers      rules (see `layers`) in the order they ran; the input is number 0, the first layer 1
    from        numbers of those whose outputs a layer takes; left out where it is the one before
    w           parameters, shared ones counted once; left out where there are none; beside
                `layers`: those that no layer holds
    tied        1 in each `fc` of a network where a weight serves two of them, so that none is to be
                thought of another size

    A pair stands where the two directions differ, one number where they are equal; 1 for a stride,
    dilation or groups, and 0 for padding, are left out.
    """
    (shape, *more), numbers = root.input_shapes, number_layers(root)
    if more or len(shape) != 3 or shape[1] != shape[2] or not root.layers or len(root.outputs) != 1:
        return None
    linear = [layer for layer in root.layers if layer.rule and layer.rule["op"] == "fc"]
    tied = any(layer.params < layer.rule["i"] * layer.rule["o"] for layer in linear)
    layers = []
    for number, layer in enumerate(root.layers, start=1):
        takes, rule = [numbers.get(operand) for operand in layer.operands], layer.rule
        num = {None: 0, "add": 2, "cat": len(takes)}.get(rule and rule["op"], 1)
        if not num or len(takes) != num or None in takes:
            return None
        rule = {**rule, "tied": 1} if rule["op"] == "fc" and tied else rule
        rule = {**rule, "from": takes} if takes != [number - 1] else rule
        layers.append({**rule, **({"w": layer.params} if layer.params else {})})
    others = {"w": root.other_params} if root.other_params else {}
    return {"c": shape[0], "side": shape[1], **others, "layers": layers}


def number_layers(root):
    """Layer -> its number in `network_data`; the input's is 0."""
    return {IN: 0, **{layer: number for number, layer in enumerate(root.layers, start=1)}}
