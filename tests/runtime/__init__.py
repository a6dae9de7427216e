"""A package, so that its conftest.py and that of all tests are two modules."""
