MAGIC: bytes
VERSION: int
HEADER_BYTES: int
TAIL_BYTES: int
REASONS: dict[int, str]
SEALED_END_AT: int

def parse_header(head: bytes | memoryview) -> tuple[bytes, int, int, int, int, int, int, int, int]: ...
def recovered_seal(end: int) -> tuple[int, bytes]: ...
