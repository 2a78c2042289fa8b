from enum import IntEnum

class Fault(IntEnum):
    NOT_NUMERIC = 1
    EMPTY_VALUE = 2
    BAD_VALUE = 3
    MISSING_TAG = 4
    COUNT = 5
    OUT_OF_RANGE = 6
    PRECISION = 7
    NUMBER = 9
    MIXED = 10

class FieldReader:
    id_table: dict[tuple[int, int], bytes]

    def take_ids(self) -> None: ...
