"""Other libraries' interfaces to a trained tagger: spaCy's, Presidio's and others'.

One file a library, imported by its users alone: each needs its library, an extra of this package.
Label Studio's needs none.
"""

from hf_semicrf.integrations.annotation import Annotator, corrected
from hf_semicrf.integrations.label_studio import HOST, Backend, server

__all__ = ["HOST", "Annotator", "Backend", "corrected", "server"]
