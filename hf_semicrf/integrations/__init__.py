"""Other libraries' interfaces to a trained tagger: spaCy's, Presidio's, Ray Data's, endpoints'.

One file a library, imported by its users alone: each needs its library, an extra of this package.
"""
