"""What a model carries to the Hub: its card, the shim that names this package, the push itself.

Nothing here builds or runs a model.
"""

from hf_semicrf.hub.model_card import CARD_NAME, PLOT_NAME, find_card, render_card
from hf_semicrf.hub.push import AUTO_MAP, card_files, card_for_push, push_folder, write_shim

__all__ = [
    "AUTO_MAP",
    "CARD_NAME",
    "PLOT_NAME",
    "card_files",
    "card_for_push",
    "find_card",
    "push_folder",
    "render_card",
    "write_shim",
]
