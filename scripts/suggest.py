"""`hf-semicrf suggest`, for those who run from a checkout."""

from hf_semicrf.cli.suggest import main

if __name__ == "__main__":
    main()
