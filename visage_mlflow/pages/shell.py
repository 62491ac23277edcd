"""The HTML around all pages: one file with texts, tables and charts, which fetches nothing and uploads nothing."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

import plotly.io

from visage_mlflow.figures.style import clean

# Without Plotly's default button that uploads the chart, answers included, to its makers' cloud.
CONFIG = {"responsive": True, "displaylogo": False, "showSendToCloud": False}

# The browser fetches nothing for the page, whatever is in it. Plotly's 3D code needs "eval".
POLICY = "default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval'; style-src 'unsafe-inline'; img-src data: blob:"
STYLE = (
    "body { font-family: sans-serif; margin: 1.5em; color: #222 } h1 { font-size: 1.3em } "
    "p { max-width: 60em; overflow-wrap: anywhere } figure { height: 720px; max-width: 960px; margin: 1em 0 } "
    ".wide { overflow-x: auto } table { border-collapse: collapse; font-size: 0.85em } "
    "th, td { padding: 0.25em 0.4em; border-bottom: 1px solid #ddd; text-align: right; vertical-align: top } "
    "td { white-space: nowrap } th:last-child { text-align: left } "
    "td.text { text-align: left; white-space: normal; min-width: 10em; overflow-wrap: anywhere } "
    "tr.chosen { background: #e8f1f8 }"
)


def page_of(title: str, paragraphs: Sequence[str], figures: Sequence[Any], table: str = "") -> str:
    """The page; Plotly's own source is in it once.

    Args:
        title: Not yet escaped.
        paragraphs: Not yet escaped.
        figures: Plotly's, their texts escaped; as high as their layout says, else 720 pixels.
        table: Markup that stands between the paragraphs and the figures; escaped.
    """
    charts = []
    for index, figure in enumerate(figures):
        has_source, name = index == 0, f"chart-{index}"
        chart = plotly.io.to_html(figure, dict(CONFIG), include_plotlyjs=has_source, full_html=False, div_id=name)
        height = f' style="height: {figure.layout.height:.0f}px"' if figure.layout.height else ""
        charts.append(f"<figure{height}>{chart}</figure>")
    head = (
        f'<meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        f"<title>{html.escape(clean(title))}</title><style>{STYLE}</style>"
    )
    texts = [f"<h1>{html.escape(clean(title))}</h1>", *(f"<p>{html.escape(clean(one))}</p>" for one in paragraphs)]
    body = "\n".join(filter(None, (*texts, table, *charts)))
    return f'<!DOCTYPE html>\n<html lang="en">\n<head>{head}</head>\n<body>\n{body}\n</body>\n</html>\n'
