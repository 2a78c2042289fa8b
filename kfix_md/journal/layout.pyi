MAGIC: bytes
VERSION: int
HEADER_BYTES: int
TAIL_BYTES: int
REASONS: dict[int, str]
SEALED_END_AT: int

def parse_header(head: bytes | memoryview, number: int) -> tuple[int, int, int, int, int, int, str]: ...
def new_header(number: int, size: int, date: int) -> bytes: ...
def recovered_seal(number: int, end: int) -> tuple[tuple[int, bytes], tuple[int, bytes]]: ...
