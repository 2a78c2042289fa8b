import numpy as np
import numpy.typing as npt

class Recorded:
    n: int
    instruments: int
    def __init__(
        self,
        entries: npt.NDArray[np.void],
        *,
        starts: npt.ArrayLike,
        ends: npt.ArrayLike,
        seqs: npt.ArrayLike,
        times: npt.ArrayLike,
        instrument: npt.ArrayLike,
        flags: npt.ArrayLike,
        crcs: npt.ArrayLike,
        levels: npt.ArrayLike,
    ) -> None: ...
    def __len__(self) -> int: ...
