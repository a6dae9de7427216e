"""Commands that people run by hand. Like the stages they read options and compute nothing."""
