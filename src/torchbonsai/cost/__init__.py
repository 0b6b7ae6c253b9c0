"""What a network costs: exact MACs and parameters as a function of kept atoms, and measured latency."""
