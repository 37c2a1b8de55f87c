"""Implementations in PyTorch and NumPy, and the custom ops that torch.compile and autograd see.

A custom op takes the name of a back end and fetches what runs through the registry: the functions
of a file here, or those of the file of the same name in ``ops.kernels``. The inputs have been
checked. What lives here knows potentials, segmentations and the registry; it imports no Triton, no
public function, and validates nothing.
"""
