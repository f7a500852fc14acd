"""What comes after the features: the state's feature map, the head, and what is made of its answers.

```
features (N, d) -> [raised] -> [random features] -> [unit length] -> rows (N, R) -> [highest look] -> logits,
    probabilities (N, K) -> [top_probabilities, top_indices (N, k)]
    or values (N, M) of a regression
```
"""

from __future__ import annotations

import numpy as np

from edge_cl.backbones.cut import FEATURES
from edge_cl.export.chain import Chain
from edge_cl.export.tensors import BIAS, LOOKS, SCALES, UNITS, UNITS_BIAS, UNITS_ROWS, WEIGHTS, Tensors, table_of
from edge_cl.feature_map import SHORTEST, FeatureMap

LOGITS, PROBABILITIES, VALUES = "logits", "probabilities", "values"
TOP = ("top_probabilities", "top_indices")
ROWS, TABLE = "edge_cl.rows", "edge_cl.table"  # (N, R) logits of rows; (K, J) which of them are each class's


def answers_of(kind: str) -> tuple[str, ...]:
    """Return the names of what a head of that kind answers."""
    return (VALUES,) if kind == "regression" else (LOGITS, PROBABILITIES)


def add_map(chain: Chain, feature_map: FeatureMap) -> None:
    """Add the state's feature map to a chain that ends in the features (N, d); it ends in those of the head (N, D)."""
    if feature_map.is_raised:
        signs = chain.add("Sign", "sign")
        chain.apply("Abs", "size", FEATURES)
        root = chain.add("Sqrt", "root")
        chain.add("Sqrt", "root.root")
        chain.add("Mul", "raised.size", root)
        chain.add("Mul", "raised", signs)
    if feature_map.n_random:
        chain.add("MatMul", "random", chain.constant("map.projection", feature_map.projection))
        if feature_map.constant:
            chain.add("Add", "random.offset", chain.constant("map.offsets", feature_map.offsets))
        chain.add("Relu", "random.relu")
    if feature_map.is_unit:
        vectors = chain.last
        chain.reduce("ReduceL2", "length", 1, keepdims=True)
        shortest = chain.constant("map.shortest", np.array([SHORTEST], np.float32))
        lengths = chain.add("Max", "length.max", shortest)
        chain.apply("Div", "unit", vectors, lengths)


def add_head(chain: Chain, tensors: Tensors, kind: str, *, is_live: bool) -> None:
    """Add the head to a chain that ends in its features (N, D).

    Args:
        chain: to add to.
        tensors: of the head.
        kind: of the head.
        is_live: whether tensors of other shapes may take their places.
    """
    for name, value in tensors.items():
        if name != LOOKS or is_live or value.any():
            chain.constant(name, value)
    features, output = chain.last, answers_of(kind)[0]
    has_looks = LOOKS in chain.constants
    weights = _rows(chain, tensors, WEIGHTS)
    last = "" if has_looks or UNITS in tensors else output
    chain.apply("Gemm", "rows", features, weights, BIAS, output=last or ROWS, transB=1)
    if has_looks:
        rows, table = chain.last, _table(chain, tensors, is_live=is_live)
        chain.apply("Gather", "looks", rows, table, axis=1)
        chain.reduce("ReduceMax", "highest", 2, keepdims=False)
        chain.add("Identity", "answers", output=output)
    if UNITS in tensors:
        rows, units = chain.last, _rows(chain, tensors, UNITS)
        chain.apply("Gemm", "hidden", features, units, UNITS_BIAS, transB=1)
        chain.add("Relu", "hidden.relu")
        chain.add("Gemm", "hidden.rows", UNITS_ROWS, transB=1)
        chain.add("Add", "sum", rows, output=output)
    if kind != "regression":
        chain.add("Softmax", "softmax", output=PROBABILITIES, axis=1)


def add_top(chain: Chain, top_k: int, n_classes: int, *, is_live: bool) -> None:
    """Add the most probable classes (N, k), the best first and the lower row of two that are alike."""
    count = chain.integers("top.k", [min(top_k, n_classes)])
    if is_live:
        wanted = chain.integers("top.wanted", [top_k])
        chain.apply("Shape", "top.shape", PROBABILITIES)
        present = chain.add("Gather", "top.classes", chain.integers("top.axis", [1]))
        chain.apply("Less", "top.few", present, wanted)
        count = chain.add("Where", "top.count", present, wanted)
        del chain.constants["edge_cl.top.k"]
    node = chain.apply("TopK", "top", PROBABILITIES, count, output=TOP[0], axis=1)
    assert node == TOP[0]
    chain.nodes[-1].output.append(TOP[1])


def _rows(chain: Chain, tensors: Tensors, name: str) -> str:
    """Return the name of float32 rows: of a tensor, or of what int8 rows stand for."""
    if tensors[name].dtype == np.float32:
        return name
    return chain.apply("DequantizeLinear", f"{name}.float", name, SCALES[name], axis=0)


def _table(chain: Chain, tensors: Tensors, *, is_live: bool) -> str:
    """Return the name of (K, J) which rows are each class's; see `edge_cl.export.tensors`."""
    if not is_live:
        del chain.constants[LOOKS]  # OpenCV 4 gathers by constants alone, and folds no sums of them
        return chain.constant(TABLE, table_of(tensors[LOOKS]))
    zero, one = chain.integers("zero", 0), chain.integers("one", 1)
    chain.apply("Shape", "table.shape", LOOKS)
    shape = chain.last
    n_looks = chain.add("Gather", "table.looks", one)
    n_owned = chain.apply("Gather", "table.classes", shape, zero)
    chain.apply("Shape", "table.rows.shape", BIAS)
    n_rows = chain.add("Gather", "table.rows", zero)
    is_single = chain.apply("Equal", "table.single", n_looks, one)
    count = chain.apply("Where", "table.count", is_single, n_rows, n_owned)
    chain.apply("Range", "table.range", zero, count, one)
    chain.add("Unsqueeze", "table.first", chain.integers("table.axis", [1]))
    return chain.add("Add", "table", LOOKS)
