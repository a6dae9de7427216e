"""What the stages measure, as they leave it in results/: typed, versioned, raw. No statistics: those are `analysis`."""
