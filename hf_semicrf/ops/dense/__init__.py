"""The dense contract behind its public functions: custom ops, the scan in PyTorch, the launches.

All work on edge potentials [B, T-1, K, C, C] whose shapes have been checked. Factored potentials
and the choice of a path stay outside, in ``ops.dense_contract`` and ``ops.routing``; Triton is
imported on first use.
"""
