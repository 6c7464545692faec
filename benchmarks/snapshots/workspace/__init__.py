"""A workspace as people rent GPUs for: weights, checkpoints, a data set, a virtual environment, logs, and odd files.

Every byte is a function of the seed, the scale and the pinned packages; every file has a generator of its own, seeded
from its name, so that one more file never changes another. Compare tools on one generated tree: NumPy's streams are
stable in practice, not by contract.
"""
