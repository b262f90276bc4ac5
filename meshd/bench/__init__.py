"""Measurements of a real agent against what people run today, with the interval of each figure.

``statistics`` and ``report`` are the frame of every bench; a bench is one module that yields a ``Report``.
"""
