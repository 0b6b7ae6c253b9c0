"""The verbs: `tb.trace`, `tb.prune`, `tb.Pruner`."""
