"""`hf-semicrf predict`, for those who run from a checkout."""

from hf_semicrf.cli.predict import main

if __name__ == "__main__":
    main()
