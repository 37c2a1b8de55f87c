"""`hf-semicrf serve`, for those who run from a checkout."""

from hf_semicrf.cli.serve import main

if __name__ == "__main__":
    main()
