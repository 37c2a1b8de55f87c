"""Every tolerance of the tests of the operations, and where it comes from.

Keyword arguments of `torch.testing.assert_close`.
"""

from __future__ import annotations

# float64 against enumeration or another order of the same sums: rounding only
FLOAT64 = {"rtol": 1e-10, "atol": 1e-10}
# float32 log Z and scores against float64, at any number of positions
LOG_Z_FLOAT32 = {"rtol": 1e-6, "atol": 0.0}
# float32 probabilities at 20,000 positions: each step rounds window scores of up to some 64 nats
# (4e-6), and the errors of the steps to the left and to the right add up as a random walk
PROBABILITY_FLOAT32 = {"rtol": 0.0, "atol": 1e-3}
# a gradient that is cast down to its input's dtype: half a unit in the last place
CAST = {
    "bfloat16": {"rtol": 2**-8, "atol": 1e-6},
    "float16": {"rtol": 2**-11, "atol": 1e-6},
    "float32": {"rtol": 2**-23, "atol": 1e-9},
}
# torch.autograd.gradcheck: central differences in float64
GRADCHECK = {"eps": 1e-6, "atol": 1e-7, "rtol": 1e-6}
# scores of an exported float32 graph: the encoder's sums, in another order
EXPORTED_FLOAT32 = {"rtol": 1e-4, "atol": 1e-4}
