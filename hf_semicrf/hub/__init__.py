"""What a model carries to the Hub: its card, the shim that names this package, the push itself.

Nothing here builds or runs a model. `leaving` has the list of what may leave the machine.
"""

from hf_semicrf.hub.allowed import (
    AUTO_MAP,
    CARD_NAME,
    PLOT_NAME,
    endpoint_additions,
    is_local,
    leaving,
)
from hf_semicrf.hub.model_card import card_with_promises, find_card, render_card
from hf_semicrf.hub.push import (
    ListedUploads,
    card_files,
    card_for_push,
    listed,
    push_folder,
    read_config,
    write_shim,
)
from hf_semicrf.hub.trainer_pushes import ListedPushes

__all__ = [
    "AUTO_MAP",
    "CARD_NAME",
    "PLOT_NAME",
    "ListedPushes",
    "ListedUploads",
    "card_files",
    "card_for_push",
    "card_with_promises",
    "endpoint_additions",
    "find_card",
    "is_local",
    "leaving",
    "listed",
    "push_folder",
    "read_config",
    "render_card",
    "write_shim",
]
