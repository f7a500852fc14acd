"""Resize, crop and normalise inside the graph: `image` (N, height, width, 3) uint8 of any size in.

The triangle filter of `Preprocessing.apply` written out: the width first, then the height, each rounded to whole grey
levels. The levels are Pillow's to the last bit, whatever the runtime. The operator `Resize` cannot do that: its boxes
begin and end at pixels, and its float32 weights send exact halves, of which resized photos have many, to either side.

Pillow's weights are whole multiples of 2**-22, so that products with pixels have 30 bits, and float32 holds 24. Here a
weight is the sum of a coarse part, whole 2**-11, and a fine rest of 2**-12 at most, so that both sums are exact in any
order for up to 64 weights: images 32 times as large as the input. No factor has more than the 11 bits of TF32.

Images of which `apply` resizes the height first, over 100 times as tall as wide, are within one grey level.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import ArrayLike
from onnx import TensorProto, helper, numpy_helper

from edge_cl.backbones.cut import PIXELS
from edge_cl.backbones.preprocessing import Preprocessing
from edge_cl.errors import ExportError

IMAGE = "image"
OPSET = 15  # the first in which Shape has start and end
GROUP = 8  # output rows that share one window of input rows: more are fewer copies and more products with zero


def add_preprocessing(model: onnx.ModelProto, preprocessing: Preprocessing) -> onnx.ModelProto:
    """Return the model that takes `image`, where the given one takes `pixels`.

    Args:
        model: its input `pixels` is (N, 3, H, W) float32; opset 15 or later.
        preprocessing: what `Preprocessing.apply` and `normalise` would do to the images.

    Returns:
        A copy; its input `image` is (N, height, width, 3) uint8, RGB, and its other inputs and outputs are the model's.

    Raises:
        ExportError: the opset is older, or there is no such input.
    """
    built = onnx.ModelProto()
    built.CopyFrom(model)
    graph = built.graph
    taken = _names_in(graph)
    place = _place_of_pixels(built, preprocessing, taken)
    pixels = graph.input[place]
    image = helper.make_tensor_value_info(IMAGE, TensorProto.UINT8, ["N", "height", "width", 3])
    image.type.tensor_type.shape.dim[0].CopyFrom(pixels.type.tensor_type.shape.dim[0])
    known = helper.make_tensor_value_info(PIXELS, TensorProto.FLOAT, ["N", 3, *preprocessing.input_size])
    known.type.tensor_type.shape.dim[0].CopyFrom(pixels.type.tensor_type.shape.dim[0])
    graph.value_info.append(known)
    graph.input[place].CopyFrom(image)
    chain = _Chain(taken)
    _normalise(chain, _resized(chain, preprocessing), preprocessing)
    nodes = [*chain.nodes, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    graph.initializer.extend(chain.constants)
    return built


def _names_in(graph: onnx.GraphProto) -> set[str]:
    """Return every name of a tensor or node."""
    names = {name for node in graph.node for name in (node.name, *node.input, *node.output)}
    return names | {value.name for value in (*graph.input, *graph.initializer, *graph.output)}


def _place_of_pixels(model: onnx.ModelProto, preprocessing: Preprocessing, taken: set[str]) -> int:
    """Return which input is `pixels`.

    Raises:
        ExportError: the model cannot be given preprocessing.
    """
    opset = max((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), default=0)
    if opset < OPSET:
        raise ExportError(
            f"preprocessing: needs opset {OPSET} or later, for Shape with start and end; the model has {opset}; "
            f"convert it: onnx.version_converter.convert_version(model, {OPSET})"
        )
    if IMAGE in taken:
        raise ExportError(f"preprocessing: the model has a tensor {IMAGE!r} already; rename it in the model")
    wanted = [3, *preprocessing.input_size]
    found = []
    for place, value in enumerate(model.graph.input):
        kind = value.type.tensor_type
        shape = [d.dim_value or d.dim_param or "?" for d in kind.shape.dim]
        fits = len(shape) == 4 and all(isinstance(a, str) or a == b for a, b in zip(shape[1:], wanted, strict=True))
        if value.name == PIXELS and kind.elem_type == TensorProto.FLOAT and fits:
            return place
        found.append(f"{value.name} {TensorProto.DataType.Name(kind.elem_type).lower()} {shape}")
    raise ExportError(
        f"preprocessing: expected an input {PIXELS!r} float {['N', *wanted]}; found {', '.join(found) or 'none'}; "
        "export without preprocessing"
    )


class _Chain:
    """Nodes and constants under names that the model does not have.

    Attributes:
        nodes: in order.
        constants: initializers of the graph.
    """

    def __init__(self, taken: set[str]) -> None:
        count, self._prefix = 1, "edge_cl.preprocess."
        while any(name.startswith(self._prefix) for name in taken):
            count += 1
            self._prefix = f"edge_cl.preprocess{count}."
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def add(self, kind: str, *inputs: str | ArrayLike, output: str = "", **attributes: Any) -> str:
        """Add a node and return the name of what it gives; inputs that are no names become constants."""
        names = [value if isinstance(value, str) else self._constant(value) for value in inputs]
        name = f"{self._prefix}{kind.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, names, [output or name], name=name, **attributes))
        return output or name

    def _constant(self, value: ArrayLike) -> str:
        array = np.asarray(value)
        if array.dtype.kind == "i":
            array = array.astype(np.int64)
        self.constants.append(numpy_helper.from_array(array, f"{self._prefix}constant{len(self.constants)}"))
        return str(self.constants[-1].name)


def _resized(chain: _Chain, preprocessing: Preprocessing) -> str:
    """Return the box that the backbone sees, (N, 3, H, W), in whole grey levels."""
    height, width = preprocessing.input_size
    boxes = ["", ""]
    if preprocessing.crop:
        sides = chain.add("Cast", chain.add("Shape", IMAGE, start=1, end=3), to=TensorProto.DOUBLE)
        fits = chain.add("ReduceMin", chain.add("Div", sides, [float(height), float(width)]))
        step = chain.add("Mul", fits, [float(preprocessing.crop)])
        boxes = [chain.add("Mul", step, [float(side)]) for side in (width, height)]
    columns = _one_axis(chain, chain.add("Transpose", IMAGE, perm=[0, 2, 3, 1]), boxes[0], (width, 3))
    rows = _one_axis(chain, chain.add("Transpose", columns, perm=[0, 3, 2, 1]), boxes[1], (height, 3))
    return chain.add("Transpose", rows, perm=[0, 2, 1, 3])


def _one_axis(chain: _Chain, source: str, box: str, shape: tuple[int, int]) -> str:
    """Return an image (N, L, A, B) with its axis L resized to the length, as (N, length, A, B) in whole grey levels.

    GROUP outputs at a time are one matrix product with the window of pixels that they need, so that the cost is that of
    the image and not L x length.

    Args:
        chain: where nodes are added.
        source: name of the image, uint8 or float.
        box: name of how much of L is seen, (1,) float64, from its middle; "" for all.
        shape: the length of the result, and A.
    """
    length, across = shape
    size = chain.add("Cast", chain.add("Shape", source, start=1, end=2), to=TensorProto.DOUBLE)
    start, box = _box(chain, size, box or size)
    pixels, weights = _triangles(chain, (size, start, chain.add("Div", box, [float(length)])), length)
    inside = chain.add("Min", pixels, chain.add("Sub", size, [1.0]))
    indices = chain.add("Cast", chain.add("Squeeze", inside, [1]), to=TensorProto.INT64)
    windows = chain.add("Cast", chain.add("Gather", source, indices, axis=1), to=TensorProto.FLOAT)
    sums = chain.add("MatMul", weights, chain.add("Reshape", windows, [0, 0, 0, -1]))  # of (N, groups, R, A B)
    levels = chain.add("Reshape", _round(chain, sums), [0, -(-length // GROUP) * GROUP, across, -1])
    return chain.add("Slice", levels, [0], [length], [1]) if length % GROUP else levels


def _round(chain: _Chain, sums: str) -> str:
    """Return whole grey levels (N, groups, GROUP, A B), halves up, of the sums with the two parts of the weights."""
    coarse = chain.add("Add", chain.add("Slice", sums, [0], [GROUP], [2]), np.array([0.5], np.float32))
    fine = chain.add("Slice", sums, [GROUP], [2 * GROUP], [2])
    levels = chain.add("Floor", coarse)
    rest = chain.add("Add", chain.add("Sub", coarse, levels), fine)
    return chain.add("Add", levels, chain.add("Floor", rest))


def _box(chain: _Chain, size: str, box: str) -> tuple[str, str]:
    """Return where a box in the middle of the size starts, and its length: float64, from float32 ends as in Pillow."""
    start = chain.add("Max", chain.add("Mul", chain.add("Sub", size, box), [0.5]), [0.0])
    end = chain.add("Cast", chain.add("Add", start, box), to=TensorProto.FLOAT)
    start = chain.add("Cast", start, to=TensorProto.FLOAT)
    length = chain.add("Cast", chain.add("Sub", end, start), to=TensorProto.DOUBLE)
    return chain.add("Cast", start, to=TensorProto.DOUBLE), length


def _triangles(chain: _Chain, axis: tuple[str, str, str], length: int) -> tuple[str, str]:
    """Return which pixels each group of outputs reads, (groups, 1, R), and their weights, (groups, 2 GROUP, R).

    Output n is the mean of the pixels around its centre that lie in the image, weighted by a triangle that falls to 0
    at `reach` pixels. Pixels past the end of the image weigh 0. Coarse parts of weights stand above the fine ones.

    Args:
        chain: where nodes are added.
        axis: names of L, of where the box starts, and of the pixels from one output to the next, each (1,) float64.
        length: of the result.
    """
    size, start, step = axis
    n_groups = -(-length // GROUP)
    places = np.minimum(np.arange(n_groups * GROUP), length - 1).reshape(n_groups, GROUP, 1)
    centres = chain.add("Add", chain.add("Mul", step, places + 0.5), start)
    reach = chain.add("Max", step, [1.0])
    first = chain.add("Relu", chain.add("Sub", chain.add("Slice", centres, [0], [1], [1]), reach))
    span = chain.add("Add", chain.add("Mul", step, [GROUP - 1.0]), chain.add("Mul", reach, [2.0]))
    n_pixels = chain.add("Add", chain.add("Squeeze", chain.add("Cast", span, to=TensorProto.INT64)), 2)
    offsets = chain.add("Cast", chain.add("Range", 0, n_pixels, 1), to=TensorProto.DOUBLE)
    pixels = chain.add("Add", chain.add("Floor", first), offsets)
    distances = chain.add("Abs", chain.add("Sub", chain.add("Add", pixels, [0.5]), centres))
    triangle = chain.add("Relu", chain.add("Sub", [1.0], chain.add("Div", distances, reach)))
    weights = chain.add("Mul", triangle, chain.add("Clip", chain.add("Sub", size, pixels), 0.0, 1.0))
    weights = chain.add("Div", weights, chain.add("ReduceSum", weights, [2], keepdims=1))
    coarse = chain.add("Floor", chain.add("Add", chain.add("Mul", weights, [2.0**11]), [0.5]))
    units = chain.add("Floor", chain.add("Add", chain.add("Mul", weights, [2.0**22]), [0.5]))
    fine = chain.add("Sub", chain.add("Mul", units, [2.0**-11]), coarse)
    parts = chain.add("Concat", coarse, fine, axis=1)
    return pixels, chain.add("Cast", chain.add("Mul", parts, [2.0**-11]), to=TensorProto.FLOAT)


def _normalise(chain: _Chain, levels: str, preprocessing: Preprocessing) -> None:
    """Add what makes `pixels` of grey levels, in the order of `Preprocessing.normalise`."""
    scale = [preprocessing.scale / std for std in preprocessing.std]
    offset = [mean / std for mean, std in zip(preprocessing.mean, preprocessing.std, strict=True)]
    scaled = chain.add("Mul", levels, np.array(scale, np.float32).reshape(3, 1, 1))
    chain.add("Sub", scaled, np.array(offset, np.float32).reshape(3, 1, 1), output=PIXELS)
