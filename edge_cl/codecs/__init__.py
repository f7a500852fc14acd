"""How a sample is kept: features to codes of a fixed number of bytes, and back. A codec is chosen by its name.

By `auto`, the default, it is `float16` below D = 512 and `sketch` from there on.

| name    | bytes of a code | codebook | what is lost |
|---------|-----------------|----------|--------------|
| sketch  | 153 at D = 1280 (1) | rarely (2) | directions that were not measured |
| eigen   | at most as many | up to a quarter of the budget | directions of little variance |
| pq      | the same        | up to a quarter of the budget | what lies between codewords |
| int4    | 6 + D / 2       | rarely (2) | nothing to speak of |
| int8    | 6 + D           | rarely (2) | nothing |
| float16 | 4 + 2 D         | none     | nothing |
| float32 | 4 D             | none     | nothing at all |

(1) 4 + min(D, max(D / 8, 160) - 11), or less where that is not a whole number of bits for each direction.
(2) 8 D bytes, where the features' units or offsets are far apart: see `edge_cl.codecs.units`.
"""

from edge_cl.codecs.choose import AUTO, CODECS, DEFAULT_CODEC, check_codec, open_codec
from edge_cl.codecs.codec import Codec

__all__ = ["AUTO", "CODECS", "DEFAULT_CODEC", "Codec", "check_codec", "open_codec"]
