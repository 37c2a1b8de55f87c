"""`hf-semicrf calibrate`, for those who run from a checkout."""

from hf_semicrf.cli.calibrate import main

if __name__ == "__main__":
    main()
