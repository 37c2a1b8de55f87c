"""`python -m hf_semicrf` is the command `hf-semicrf`."""

from hf_semicrf.cli import main

if __name__ == "__main__":
    main()
