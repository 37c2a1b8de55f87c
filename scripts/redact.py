"""`hf-semicrf redact`, for those who run from a checkout."""

from hf_semicrf.cli.redact import main

if __name__ == "__main__":
    main()
