"""`hf-semicrf backend`, for those who run from a checkout."""

from hf_semicrf.cli.backend import main

if __name__ == "__main__":
    main()
