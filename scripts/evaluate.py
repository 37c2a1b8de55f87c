"""`hf-semicrf evaluate`, for those who run from a checkout."""

from hf_semicrf.cli.evaluate import main

if __name__ == "__main__":
    main()
