"""Accuracy, latency, memory, size, the machine, and the statistics over them."""
