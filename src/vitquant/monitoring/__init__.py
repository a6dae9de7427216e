"""What served images tell of a quantized model: tests to look at all day, drift, accuracy by few labels."""
