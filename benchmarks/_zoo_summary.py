"""The zoo's records as a page: counts, what is frozen by which op at which line, what failed, what was slow."""
from __future__ import annotations
def write_summary(entries, records, path, command):
    pass
