"""How a sample is kept: features to codes of a fixed number of bytes, and back. A codec is chosen by its name.

| name    | bytes of a code | codebook | what is lost |
|---------|-----------------|----------|--------------|
| sketch  | 153 at D = 1280: 4 + (max(D / 8, 160) - 11), and 4 + D at most | none | directions that were not measured |
| eigen   | the same        | up to a quarter of the budget | directions of little variance |
| pq      | at most the same | up to a quarter of the budget | what lies between codewords |
| int4    | 6 + D / 2       | none     | nothing to speak of |
| int8    | 6 + D           | none     | nothing |
| float16 | 4 + 2 D         | none     | nothing |
| float32 | 4 D             | none     | nothing at all |
"""

from edge_cl.codecs.choose import CODECS, DEFAULT_CODEC, check_codec, open_codec
from edge_cl.codecs.codec import Codec

__all__ = ["CODECS", "DEFAULT_CODEC", "Codec", "check_codec", "open_codec"]
