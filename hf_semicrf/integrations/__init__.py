"""Other libraries' interfaces to a trained tagger: spaCy's and Presidio's.

One file a library, imported by its users alone: each needs its library, an extra of this package.
"""
