"""Entities and figures for readers: HTML, terminal colours, Markdown tables, pictures.

Lives here: pure functions of results that others computed. Nothing here runs a model.
"""

from hf_semicrf.reporting.corrections import CORRECTIONS_STYLE, corrections_html
from hf_semicrf.reporting.heatmap import plot_uncertainty, uncertainty_page
from hf_semicrf.reporting.segments import plot_segments
from hf_semicrf.reporting.tables import (
    length_table,
    markdown_table,
    markdown_text,
    plot_scores,
    promise_table,
    reliability_table,
    type_table,
)
from hf_semicrf.reporting.visualize import escape_line, to_ansi, to_html

__all__ = [
    "CORRECTIONS_STYLE",
    "corrections_html",
    "escape_line",
    "length_table",
    "markdown_table",
    "markdown_text",
    "plot_scores",
    "plot_segments",
    "plot_uncertainty",
    "promise_table",
    "reliability_table",
    "to_ansi",
    "to_html",
    "type_table",
    "uncertainty_page",
]
