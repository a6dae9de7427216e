"""What happens to weights before they run: smoothing, scales and rounding."""
