"""From a codec's name to the codec."""

from __future__ import annotations

from edge_cl.codecs.codec import Codec
from edge_cl.errors import InputError, StateError

CODECS = ("sketch", "eigen", "pq", "int4", "int8", "float16", "float32")
AUTO = "auto"  # float16 while a sample takes less than about a kilobyte, a sketch from there on
DEFAULT_CODEC = AUTO
SKETCHED_DIM = 512


def check_codec(name: str) -> None:
    """Check the name of a codec.

    Raises:
        InputError: there is no such codec.
    """
    if name not in {AUTO, *CODECS}:
        raise InputError(f"codec: expected one of {AUTO}, {', '.join(CODECS)}; found {name!r}")


def open_codec(name: str, dim: int, codebook: bytes = b"") -> Codec:
    """Return the codec of that name.

    Args:
        name: one of `CODECS`, or `auto`: `float16` below D = 512, `sketch` from there on.
        dim: D.
        codebook: what an earlier `fit` left; empty: none.

    Raises:
        StateError: the codebook does not fit.
    """
    from edge_cl.codecs import learnt, scalars, sketch, units

    check_codec(name)
    if name == AUTO:
        name = "sketch" if dim >= SKETCHED_DIM else "float16"
    if name in {"eigen", "pq"}:
        return (learnt.Eigen if name == "eigen" else learnt.Product)(dim, codebook)
    if name in {"sketch", "int4", "int8"}:
        inner = sketch.Sketch(dim) if name == "sketch" else scalars.Integers(dim, int(name[3:]))
        return units.Standardised(inner, codebook)
    if codebook:
        raise StateError(f"codec {name} has no codebook; found {len(codebook)} bytes")
    return (scalars.Float16 if name == "float16" else scalars.Float32)(dim)
