"""From a codec's name to the codec."""

from __future__ import annotations

from edge_cl.codecs.codec import Codec
from edge_cl.errors import InputError, StateError

CODECS = ("sketch", "eigen", "pq", "int4", "int8", "float16", "float32")
DEFAULT_CODEC = "sketch"


def check_codec(name: str) -> None:
    """Check the name of a codec.

    Raises:
        InputError: there is no such codec.
    """
    if name not in CODECS:
        raise InputError(f"codec: expected one of {', '.join(CODECS)}; found {name!r}")


def open_codec(name: str, dim: int, codebook: bytes = b"") -> Codec:
    """Return the codec of that name.

    Args:
        name: one of `CODECS`.
        dim: D.
        codebook: what an earlier `fit` left; empty: none.

    Raises:
        StateError: the codebook does not fit.
    """
    from edge_cl.codecs import learnt, scalars, sketch

    check_codec(name)
    if name in {"eigen", "pq"}:
        return (learnt.Eigen if name == "eigen" else learnt.Product)(dim, codebook)
    if codebook:
        raise StateError(f"codec {name} has no codebook; found {len(codebook)} bytes")
    if name == "sketch":
        return sketch.Sketch(dim)
    if name in {"int4", "int8"}:
        return scalars.Integers(dim, int(name[3:]))
    return (scalars.Float16 if name == "float16" else scalars.Float32)(dim)
