from typing import Any, final

import numpy as np

from kfix_md._fields import FieldReader
from kfix_md._frame import SIMD as SIMD
from kfix_md._frame import checksum as checksum
from kfix_md._frame import fields as fields
from kfix_md._ids import id_key as id_key
from kfix_md._ids import id_text as id_text

@final
class Codec(FieldReader):
    fast_messages: int
    general_messages: int
    def __init__(self, *, allow_fast: bool = True) -> None: ...
    def decode_frame(
        self, frame: bytes, price_precision: int, qty_precision: int
    ) -> np.ndarray[Any, np.dtype[Any]]: ...
