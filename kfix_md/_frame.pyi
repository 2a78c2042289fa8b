from re import Pattern

from typing_extensions import Buffer

SIMD: str
OTHER_VERSION: Pattern[bytes]

def fields(frame: Buffer) -> list[tuple[int, bytes]]: ...
def checksum(data: Buffer) -> int: ...
def other_version(data: bytes) -> bytes | None: ...
