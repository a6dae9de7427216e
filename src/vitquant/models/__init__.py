"""Vision transformers, where their weights come from, and their linear heads."""
