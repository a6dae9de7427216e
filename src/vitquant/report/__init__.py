"""Tables, figures and the Markdown report."""
