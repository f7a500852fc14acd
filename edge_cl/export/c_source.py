"""`kind="c"`: a head as one C99 file, for machines where no ONNX runtime fits.

The file is a source and a header: `static` tables and functions, no heap, nothing that changes, and of the C library
`sqrtf` and `expf` alone. It starts from the backbone's features, as they are before the state's feature map.

| name                               | what |
|------------------------------------|------|
| EDGE_HEAD_D, _K, _VERSION          | features of a sample, classes (outputs of a regression), version of the state |
| EDGE_HEAD_M                        | features after the feature map |
| edge_head_name(row)                | UTF-8 |
| edge_head_logits(features, logits) | (D,) to (K,); `edge_head_values` of a regression |
| edge_head_probabilities            | (D,) to (K,); not of a regression, and so the next |
| edge_head_top(scores, rows, n)     | rows of the n highest, of equal ones the lower row first; returns how many |
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from edge_kernels.arrays import Floats

from edge_cl.errors import ExportError
from edge_cl.export.c_functions import DOT, HIDDEN, LOOKS, NAME, PROBABILITIES, RAISE, RANDOM, ROWS, TOP, UNIT
from edge_cl.feature_map import SHORTEST, FeatureMap
from edge_cl.head import Head

MAX_BYTES = 64 * 10**6  # of the source: gcc takes 10 s and 1 GB of memory for it
NUMBER_BYTES = 17  # of a weight in it, with its comma
LONGEST = 4095  # bytes of a string literal that every C99 compiler takes
PER_LINE = 8


def to_c(head: Head, feature_map: FeatureMap, version: int) -> str:
    """Return the C source, in ASCII.

    Args:
        head: K classes, or M outputs.
        feature_map: what becomes of features before the head.
        version: of the state.

    Raises:
        ExportError: the source would be too large, or a weight is no finite number.
    """
    _check_size(head, feature_map)
    tables = _tables(head, feature_map)
    if not all(np.isfinite(values).all() for values in tables.values()):
        raise ExportError("head: expected finite weights; found others: the state is damaged; restore a copy of it")
    is_regression = head.kind == "regression"
    parts = [_preface(head, feature_map, version), "\n".join(_names(head.classes))]
    parts += ["\n".join(_table(name, values)) for name, values in tables.items()]
    if head.looks is not None:
        owners = ", ".join(map(str, head.looks.owners.tolist()))
        parts.append(f"static const int edge_head_owners[{len(head.looks.owners)}] = {{{owners}}};")
    parts += [NAME, DOT, *_map_function(feature_map), _logits_function(head, feature_map)]
    parts += [] if is_regression else [PROBABILITIES, TOP]
    return "\n\n".join(parts) + "\n\n#endif\n"


def _check_size(head: Head, feature_map: FeatureMap) -> None:
    """Refuse what compilers would choke on, before a random projection is drawn.

    Raises:
        ExportError: it would be too large.
    """
    n_numbers = (feature_map.n_inputs + 1) * feature_map.n_random + head.weights.size + head.bias.size
    n_numbers += head.hidden.units.size + head.hidden.rows.size if head.hidden is not None else 0
    n_numbers += head.looks.weights.size + head.looks.bias.size if head.looks is not None else 0
    size, limit = n_numbers * NUMBER_BYTES // 10**6, MAX_BYTES // 10**6
    if size <= limit:
        return
    advice = "use kind head, an ONNX file of the head alone"
    if feature_map.n_random:
        advice += f", or a state with fewer random features than {feature_map.n_random}"
    raise ExportError(
        f"kind c: expected at most {limit} MB of C source; found {n_numbers} weights, {size} MB; {advice}"
    )


def _tables(head: Head, feature_map: FeatureMap) -> dict[str, Floats]:
    """Return the constants by their names: (n,) or (n, m), a row for each sum that is made with it."""
    tables: dict[str, Floats] = {}
    if feature_map.n_random:
        tables["projection"] = feature_map.projection.T
        tables["offsets"] = feature_map.offsets if feature_map.constant else np.zeros(feature_map.n_random, np.float32)
    if head.hidden is not None:
        tables["units"], tables["units_bias"] = head.hidden.units[:, :-1], head.hidden.units[:, -1]
        tables["units_rows"] = head.hidden.rows.T
    tables["weights"], tables["bias"] = head.rows
    if head.looks is not None:
        tables["look_weights"], tables["look_bias"] = head.looks.weights, head.looks.bias
    return tables


def _preface(head: Head, feature_map: FeatureMap, version: int) -> str:
    """Return the file's first comment, the guard, and what the numbers are called."""
    is_regression = head.kind == "regression"
    call = "edge_head_values(features, values)" if is_regression else "edge_head_probabilities(features, probabilities)"
    n_floats = 0 if feature_map.is_identity else feature_map.dim
    n_floats += feature_map.n_inputs if feature_map.is_raised and feature_map.n_random else 0
    includes = [] if is_regression and not (feature_map.is_raised or feature_map.is_unit) else ["#include <math.h>", ""]
    lines = [
        f"/* A head that edge_cl exported: version {version}, C99 or C++17.",
        " *",
        " * Include it in the one source file that calls it: each that does has tables of its own. Features are the",
        f" * backbone's, as they are. {call} needs {4 * n_floats} bytes of",
        " * stack beside its arguments, and no heap. */",
        "#ifndef EDGE_HEAD_H",
        "#define EDGE_HEAD_H",
        "",
        *includes,
        f"#define EDGE_HEAD_D {feature_map.n_inputs}",
        f"#define EDGE_HEAD_M {feature_map.dim}",
        f"#define EDGE_HEAD_K {len(head.classes)}",
        f"#define EDGE_HEAD_VERSION {version}",
    ]
    return "\n".join(lines)


def _names(classes: tuple[str, ...]) -> Iterator[str]:
    """Yield the lines of the table of names."""
    encoded = [name.encode() for name in classes]
    for k, name in enumerate(encoded):
        if len(name) > LONGEST:
            yield f"static const char edge_head_name_{k}[] = {{"
            yield from _wrapped([f"'{_escape(byte)}'" for byte in name] + ["0"])
            yield "};"
    yield "static const char *const edge_head_names[EDGE_HEAD_K] = {"
    for k, name in enumerate(encoded):
        text = "".join(map(_escape, name))
        yield f"    edge_head_name_{k}," if len(name) > LONGEST else f'    "{text}",'
    yield "};"


def _escape(byte: int) -> str:
    """Return a byte as it stands in quotes of either kind.

    Octal escapes end after three digits, where those in hex swallow what follows; a bare `?` could begin a trigraph.
    """
    character = chr(byte)
    if character in "\"'?\\":
        return "\\" + character
    return character if 32 <= byte < 127 else f"\\{byte:03o}"


def _table(name: str, values: Floats) -> Iterator[str]:
    """Yield the lines of a table of numbers, hex floats: no bit is lost."""
    sides = "".join(f"[{side}]" for side in values.shape)
    yield f"static const float edge_head_{name}{sides} = {{"
    if values.ndim == 1:
        yield from _wrapped([_number(value) for value in values.tolist()])
    else:
        for row in values:
            yield "    {"
            yield from _wrapped([_number(value) for value in row.tolist()])
            yield "    },"
    yield "};"


def _number(value: float) -> str:
    mantissa, exponent = value.hex().split("p")
    return f"{mantissa.rstrip('0').rstrip('.')}p{exponent}f"


def _wrapped(items: list[str]) -> Iterator[str]:
    for start in range(0, len(items), PER_LINE):
        yield "    " + ", ".join(items[start : start + PER_LINE]) + ","


def _map_function(feature_map: FeatureMap) -> Iterator[str]:
    """Yield the C of `FeatureMap.apply`, if there is anything to do."""
    if feature_map.is_identity:
        return
    source, lines = "features", ["    int d;"]
    if feature_map.is_raised:
        yield RAISE
        target = "raised" if feature_map.n_random else "mapped"
        if feature_map.n_random:
            lines.append("    float raised[EDGE_HEAD_D];")
        lines += ["    for (d = 0; d < EDGE_HEAD_D; d++)", f"        {target}[d] = edge_head_raise({source}[d]);"]
        source = target
    if feature_map.n_random:
        lines.append(RANDOM.format(source=source))
        source = "mapped"
    if feature_map.is_unit:
        lines.insert(0, "    float length;")
        lines.append(UNIT.format(source=source, shortest=_number(float(np.float32(SHORTEST)))))
    body = "\n".join(lines)
    comment = "/* What the head sees (M,) of features (D,). */"
    yield f"{comment}\nstatic inline void edge_head_map(const float *features, float *mapped)\n{{\n{body}\n}}"


def _logits_function(head: Head, feature_map: FeatureMap) -> str:
    """Return the C of `Head.logits`."""
    answers, start = ("values" if head.kind == "regression" else "logits"), ""
    source = "features" if feature_map.is_identity else "mapped"
    lines = ["    int k;"]
    if head.hidden is not None:
        start = f"    int h;\n    const int n_units = {len(head.hidden.units)};\n"
    if head.looks is not None:
        start = f"    int e;\n    const int n_looks = {len(head.looks.owners)};\n"
    if not feature_map.is_identity:
        start += "    float mapped[EDGE_HEAD_M];\n"
        lines.append("    edge_head_map(features, mapped);")
    lines.append(ROWS.format(answers=answers, source=source))
    if head.hidden is not None:
        lines.append(HIDDEN.format(answers=answers, source=source))
    if head.looks is not None:
        lines.append(LOOKS.format(answers=answers, source=source))
    body = start + "\n".join(lines)
    comment = f"/* The {answers} (K,) of features (D,). */"
    return f"{comment}\nstatic inline void edge_head_{answers}(const float *features, float *{answers})\n{{\n{body}\n}}"
