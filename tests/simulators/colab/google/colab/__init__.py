"""A double of Colab's own package for kernels of tests: secrets and the end of a runtime, with the real one's errors.

COLAB_DOUBLE names a folder: secrets.json is {name: {"value", "access"}}; a line in unassigned is a runtime given back.
"""
