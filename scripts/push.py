"""`hf-semicrf push`, for those who run from a checkout."""

from hf_semicrf.cli.push import main

if __name__ == "__main__":
    main()
