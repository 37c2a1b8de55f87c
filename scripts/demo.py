"""`hf-semicrf demo`, for those who run from a checkout."""

from hf_semicrf.cli.demo import main

if __name__ == "__main__":
    main()
