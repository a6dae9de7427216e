"""Using an artifact: many files at once, or behind a web server that holds it in worker processes."""
