"""Triton kernels, each with its launcher in one file.

A launcher takes checked tensors, allocates the outputs and launches; there is no autograd, no
custom op and no module here. Only this folder imports Triton at the top of a file, and nothing
imports this folder but ``ops.registry`` and ``ops.dense.launches``, both on first use.
"""
