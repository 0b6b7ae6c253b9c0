"""The toy stages are found by the tests and, through sys.path, by the worker processes."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
