"""Where the features that a head reads come from: two heads of one origin can take each other's place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from edge_cl.backbones import BackboneInfo, Preprocessing
from edge_cl.backbones.preprocessing import METADATA_KEY, resolve
from edge_cl.errors import BackboneMismatchError

SHA256_KEY = "edge_cl.backbone_sha256"
BACKBONE, HEAD = "backbone.onnx", "head.onnx"  # of a split export: one origin of features, and heads that follow


@dataclass(frozen=True)
class Origin:
    """The origin of features.

    Attributes:
        sha256: of the backbone; "" where samples are features.
        preprocessing: of images before it; None where samples are features.
        n_inputs: features of a sample, as they come in.
    """

    sha256: str
    preprocessing: Preprocessing | None
    n_inputs: int

    @classmethod
    def of_info(cls, info: BackboneInfo | None, n_inputs: int) -> Origin:
        """Return that of a state."""
        return cls(info.sha256, info.preprocessing, n_inputs) if info else cls("", None, n_inputs)

    @classmethod
    def of_metadata(cls, metadata: Mapping[str, str], n_inputs: int, name: str) -> Origin:
        """Return that of an export.

        Args:
            metadata: of the file.
            n_inputs: of its feature map.
            name: of the file.

        Raises:
            InputError: its preprocessing is none.
        """
        if SHA256_KEY not in metadata:
            return cls("", None, n_inputs)
        return cls(metadata[SHA256_KEY], resolve(metadata.get(METADATA_KEY), None, None, name), n_inputs)

    def check_same(self, wanted: Origin, name: str, advice: str) -> None:
        """Refuse what reads other features.

        Args:
            wanted: the origin that is expected.
            name: of what has this one.
            advice: what to do instead.

        Raises:
            BackboneMismatchError: they differ.
        """
        if self.sha256 != wanted.sha256:
            found, other = (sha256[:16] or "none: features" for sha256 in (self.sha256, wanted.sha256))
            raise BackboneMismatchError(f"{name}: is of backbone {found}; expected {other}; {advice}")
        if self.preprocessing != wanted.preprocessing:
            found, other = (p.to_json() if p else "none" for p in (self.preprocessing, wanted.preprocessing))
            raise BackboneMismatchError(f"{name}: is of preprocessing {found}; expected {other}; {advice}")
        if self.n_inputs != wanted.n_inputs:
            raise BackboneMismatchError(f"{name}: is of {self.n_inputs} features; expected {wanted.n_inputs}; {advice}")
