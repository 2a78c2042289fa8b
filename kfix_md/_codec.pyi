import numpy as np
from numpy.typing import NDArray
from typing_extensions import Buffer

from kfix_md._fields import FieldReader
from kfix_md._frame import SIMD as SIMD
from kfix_md._frame import checksum as checksum
from kfix_md._frame import fields as fields
from kfix_md._ids import id_key as id_key
from kfix_md._ids import id_text as id_text

__all__ = ["SIMD", "Codec", "checksum", "fields", "id_key", "id_text"]

class Codec(FieldReader):
    fast_messages: int
    general_messages: int

    def __init__(self, *, allow_fast: bool = True, keep_ids: bool = False) -> None: ...
    def decode_frame(self, frame: Buffer, price_precision: int, qty_precision: int) -> NDArray[np.void]: ...
