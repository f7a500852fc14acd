"""Resize, crop and normalise inside the graph: `image` (N, height, width, 3) uint8 of any size in.

Two ways, for one box as Pillow's `resize` sees it:

| crop   | how |
|--------|-----|
| 0      | `Resize(antialias=1)` of the whole image |
| (0, 1] | its triangle filter written out: the box begins and ends between pixels, and no operator has such boxes |

Both are computed in float and rounded once. Pillow rounds after each of its two passes, in an order that depends on its
version, and is never more than one grey level away; `Resize` on uint8 does so too, and is up to two levels from Pillow.
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
OPSET = 18  # the first in which Resize has antialias
HALF = 0.5 + 1 / 256  # halves are common and go up, as Pillow has them, whatever the last digits of a runtime
GROUP = 8  # output rows that share one window of input rows: more are fewer copies and more products with zero


def add_preprocessing(model: onnx.ModelProto, preprocessing: Preprocessing) -> onnx.ModelProto:
    """Return the model that takes `image`, where the given one takes `pixels`.

    Args:
        model: its input `pixels` is (N, 3, H, W) float32; opset 18 or later.
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
    levels = _cropped(chain, preprocessing) if preprocessing.crop else _whole(chain, preprocessing)
    _normalise(chain, levels, preprocessing)
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
            f"preprocessing: needs opset {OPSET} or later, for Resize with antialias; the model has {opset}; "
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
        array = array.astype(np.int64 if array.dtype.kind == "i" else np.float32)
        self.constants.append(numpy_helper.from_array(array, f"{self._prefix}constant{len(self.constants)}"))
        return str(self.constants[-1].name)


def _whole(chain: _Chain, preprocessing: Preprocessing) -> str:
    """Return the whole image squeezed to (N, 3, H, W), in float grey levels."""
    planes = chain.add("Cast", chain.add("Transpose", IMAGE, perm=[0, 3, 1, 2]), to=TensorProto.FLOAT)
    # Sizes of all four axes: onnxruntime's optimisers misread two sizes with `axes` where a Transpose is near.
    sizes = chain.add("Concat", chain.add("Shape", IMAGE, end=1), [3, *preprocessing.input_size], axis=0)
    return chain.add("Resize", planes, "", "", sizes, mode="linear", antialias=1, exclude_outside=1)


def _cropped(chain: _Chain, preprocessing: Preprocessing) -> str:
    """Return the box in the middle of the image, (N, 3, H, W), in float grey levels."""
    height, width = preprocessing.input_size
    sides = chain.add("Cast", chain.add("Shape", IMAGE, start=1, end=3), to=TensorProto.FLOAT)
    fits = chain.add("ReduceMin", chain.add("Div", sides, [float(height), float(width)]))
    step = chain.add("Mul", fits, [[[float(preprocessing.crop)]]])  # input pixels from one output pixel to the next
    rows = _one_axis(chain, IMAGE, step, height)
    columns = _one_axis(chain, chain.add("Transpose", rows, perm=[0, 2, 1, 3]), step, width)
    return chain.add("Transpose", columns, perm=[0, 3, 2, 1])


def _one_axis(chain: _Chain, source: str, step: str, length: int) -> str:
    """Return an image (N, L, M, 3) with its axis L resized to the length, as (N, length, M, 3) float.

    GROUP outputs at a time are one matrix product with the window of pixels that they need, so that the cost is that of
    the image and not L x length.

    Args:
        chain: where nodes are added.
        source: name of the image, uint8 or float.
        step: name of the step, (1, 1, 1).
        length: of the result.
    """
    size = chain.add("Cast", chain.add("Shape", source, start=1, end=2), to=TensorProto.FLOAT)
    pixels, weights = _triangles(chain, size, step, length)
    inside = chain.add("Min", pixels, chain.add("Sub", size, [1.0]))
    indices = chain.add("Cast", chain.add("Squeeze", inside, [1]), to=TensorProto.INT64)
    windows = chain.add("Cast", chain.add("Gather", source, indices, axis=1), to=TensorProto.FLOAT)
    product = chain.add("MatMul", weights, chain.add("Reshape", windows, [0, 0, 0, -1]))  # of (N, groups, R, 3 M)
    resized = chain.add("Reshape", product, [0, -(-length // GROUP) * GROUP, -1, 3])
    return chain.add("Slice", resized, [0], [length], [1]) if length % GROUP else resized


def _triangles(chain: _Chain, size: str, step: str, length: int) -> tuple[str, str]:
    """Return which pixels each group of outputs reads, (groups, 1, R), and with what weights, (groups, GROUP, R).

    Output n is the mean of the pixels around its centre, L / 2 + (n + 0.5 - length / 2) * step, that lie in the image,
    weighted by a triangle that falls to 0 at `reach` pixels. Pixels past the end of the image weigh 0.

    Args:
        chain: where nodes are added.
        size: name of L, (1,).
        step: name of the step, (1, 1, 1).
        length: of the result.
    """
    n_groups = -(-length // GROUP)
    places = np.minimum(np.arange(n_groups * GROUP), length - 1).reshape(n_groups, GROUP, 1)
    centres = chain.add("Mul", step, places + 0.5 - length / 2)
    centres = chain.add("Add", centres, chain.add("Mul", size, [0.5]))
    reach = chain.add("Max", step, [1.0])
    first = chain.add("Relu", chain.add("Sub", chain.add("Slice", centres, [0], [1], [1]), reach))
    span = chain.add("Add", chain.add("Mul", step, [GROUP - 1.0]), chain.add("Mul", reach, [2.0]))
    n_pixels = chain.add("Add", chain.add("Squeeze", chain.add("Cast", span, to=TensorProto.INT64)), 2)
    offsets = chain.add("Cast", chain.add("Range", 0, n_pixels, 1), to=TensorProto.FLOAT)
    pixels = chain.add("Add", chain.add("Floor", first), offsets)
    distances = chain.add("Abs", chain.add("Sub", chain.add("Add", pixels, [0.5]), centres))
    triangle = chain.add("Relu", chain.add("Sub", [1.0], chain.add("Div", distances, reach)))
    weights = chain.add("Mul", triangle, chain.add("Clip", chain.add("Sub", size, pixels), 0.0, 1.0))
    return pixels, chain.add("Div", weights, chain.add("ReduceSum", weights, [2], keepdims=1))


def _normalise(chain: _Chain, levels: str, preprocessing: Preprocessing) -> None:
    """Add what makes `pixels` of float grey levels, in the order of `Preprocessing.normalise`."""
    scale = [preprocessing.scale / std for std in preprocessing.std]
    offset = [mean / std for mean, std in zip(preprocessing.mean, preprocessing.std, strict=True)]
    rounded = chain.add("Floor", chain.add("Add", levels, [HALF]))
    scaled = chain.add("Mul", rounded, np.reshape(scale, (3, 1, 1)))
    chain.add("Sub", scaled, np.reshape(offset, (3, 1, 1)), output=PIXELS)
