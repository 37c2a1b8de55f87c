"""`hf-semicrf train`, for those who run from a checkout."""

from hf_semicrf.cli.train import main

if __name__ == "__main__":
    main()
