"""`python -m hf_semicrf` is the command `hf-semicrf`."""
