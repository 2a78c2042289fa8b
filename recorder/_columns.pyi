from typing import Any

import numpy as np

COLUMNS: dict[str, str]

def columns(ticks: np.ndarray, scales: Any) -> dict[str, np.ndarray]: ...
def entries(given: dict[str, np.ndarray], n: int) -> np.ndarray: ...
