"""Other libraries' interfaces to a trained tagger: spaCy's, Presidio's and Inference Endpoints'.

One file a library, imported by its users alone: each needs its library, an extra of this package.
"""
