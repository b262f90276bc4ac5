"""The tests, as a package, so that modules shared between them are imported as ``tests.<folder>.<module>``."""
