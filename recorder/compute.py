"""pyarrow's compute functions for type checkers: pyarrow makes most of them when it is imported, where none can see."""

from typing import Any

import pyarrow.compute

pc: Any = pyarrow.compute
