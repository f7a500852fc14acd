"""Class activation maps: where in the image the logits come from (Zhou 2016, CVPR, eq. 2).

A backbone that ends in an average over places makes each feature the mean of a map, and a linear head's logit the mean
of the maps that its row weighs, and its bias: `logits = mean(cam) + bias`, exactly. A feature that is raised to a power
or divided by a length counts by what it became for each unit of what it was, so that the sum holds as it is.
"""

from __future__ import annotations

import numpy as np
import onnx
from edge_kernels.arrays import Floats

from edge_cl.backbones.cut import FEATURES
from edge_cl.errors import ExportError
from edge_cl.export.base import open_base
from edge_cl.export.chain import Chain
from edge_cl.export.graph import LOGITS, ROWS, TABLE
from edge_cl.export.options import Options
from edge_cl.export.tensors import BIAS, LOOKS, WEIGHTS, Tensors, table_of

CAM = "cam"
CLOSE = 1e-3  # of the means of maps and the features, in units of the largest
_AHEAD = 12  # nodes before the features among which the maps are looked for


def find_maps(base: onnx.ModelProto, inputs: dict[str, Floats], name: str, options: Options) -> str:
    """Return the tensor (N, D, h, w) whose means over places are the features.

    Args:
        base: ends in the features.
        inputs: samples to try it on.
        name: of the backbone, for the error.
        options: of the export.

    Raises:
        ExportError: there is none: the backbone does not end in an average over places.
    """
    makers = {output: node for node in base.graph.node for output in node.output}
    place = FEATURES
    names: list[str] = []
    while place in makers and len(names) < _AHEAD and makers[place].input:
        place = makers[place].input[0]
        names.append(place)
    probe = onnx.ModelProto()
    probe.CopyFrom(base)
    made = [name for name in names if name in makers]
    probe.graph.output.extend(onnx.ValueInfoProto(name=name) for name in made)
    features, *found = open_base(probe, options).run([FEATURES, *made], inputs)
    for maps, place in zip(found, made, strict=True):
        if maps.ndim == 4 and maps.shape[2:] != (1, 1) and maps.shape[:2] == features.shape:
            if np.allclose(maps.mean(axis=(2, 3)), features, rtol=0, atol=CLOSE * float(np.abs(features).max())):
                return str(place)
            break
    raise ExportError(f"cam: {name} does not end in an average over places; leave it out")


def add_cam(chain: Chain, maps: str, mapped: str) -> None:
    """Add `cam` (N, K, h, w) to a graph with a linear head.

    Args:
        chain: to add to.
        maps: name of (N, D, h, w).
        mapped: name of the features (N, D) that the head reads.
    """
    chain.apply("Shape", "cam.shape", maps)
    sides = chain.add("Slice", "cam.sides", chain.integers("cam.two", [2]), chain.integers("cam.four", [4]))
    places = chain.apply("Reshape", "cam.places", maps, chain.integers("cam.flat", [0, 0, -1]))
    if mapped != FEATURES:
        zero = chain.constant("edge_cl.cam.zero", np.zeros(1, np.float32))
        is_zero = chain.apply("Equal", "cam.is_zero", FEATURES, zero)
        one = chain.constant("edge_cl.cam.one", np.ones(1, np.float32))
        divisor = chain.apply("Where", "cam.divisor", is_zero, one, FEATURES)
        chain.apply("Div", "cam.ratio", mapped, divisor)
        ratios = chain.add("Unsqueeze", "cam.ratios", chain.integers("cam.axis", [2]))
        places = chain.apply("Mul", "cam.weighed", places, ratios)
    product = next(node for node in chain.nodes if node.output[0] in {LOGITS, ROWS})
    rows = chain.apply("MatMul", "cam.rows", product.input[1], places)
    if product.output[0] == ROWS:
        rows = _highest(chain, rows)
    shape = chain.apply("Concat", "cam.wanted", chain.integers("cam.kept", [0, 0]), sides, axis=0)
    chain.apply("Reshape", "cam.maps", rows, shape, output=CAM)


def bias_of_best(tensors: Tensors, features: Floats) -> Floats:
    """Return (N, K) the bias of the row that each class answers by, for features (N, D) of the head."""
    rows = features @ tensors[WEIGHTS].T + tensors[BIAS]
    if not tensors.get(LOOKS, np.zeros(1)).any():
        return np.broadcast_to(tensors[BIAS], rows.shape)
    table = table_of(tensors[LOOKS])
    best = rows[:, table].argmax(axis=2)
    return np.asarray(tensors[BIAS][table[np.arange(len(table)), best]])


def _highest(chain: Chain, rows: str) -> str:
    """Return the name of (N, K, P): of rows (N, R, P), that of each class's highest look."""
    ranked = chain.apply("Gather", "cam.looks", ROWS, TABLE, axis=1)
    best = chain.add("ArgMax", "cam.best", axis=2, keepdims=1)
    shape = chain.apply("Shape", "cam.ranked", ranked)
    chain.apply("Expand", "cam.table", TABLE, shape)
    chosen = chain.add("GatherElements", "cam.chosen", best, axis=2)
    chain.apply("Shape", "cam.rows.shape", rows)
    n_places = chain.add("Slice", "cam.n", chain.integers("cam.last", [2]), chain.integers("cam.end", [3]))
    kept = chain.apply("Slice", "cam.both", shape, chain.integers("cam.first", [0]), chain.integers("cam.second", [2]))
    wide = chain.apply("Concat", "cam.wide", kept, n_places, axis=0)
    index = chain.apply("Expand", "cam.index", chosen, wide)
    return chain.apply("GatherElements", "cam.highest", rows, index, axis=1)
