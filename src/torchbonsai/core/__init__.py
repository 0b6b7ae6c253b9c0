"""Words that all rooms share: errors, units, canonical JSON and config hashing. No torch at import."""
