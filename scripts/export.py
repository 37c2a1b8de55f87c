"""`hf-semicrf export`, for those who run from a checkout."""

from hf_semicrf.cli.export import main

if __name__ == "__main__":
    main()
