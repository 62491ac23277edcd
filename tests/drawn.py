"""What the tests of figures share: a fixture under which a warning is an error, and ways to look at a figure."""

import functools
import io
import logging
import math
import warnings

import numpy as np
import pytest

NAN = math.nan
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(autouse=True)
def nothing_to_warn_of(caplog):
    """Warnings are errors, and matplotlib's log, where it reports positions that are not finite, stays empty."""
    with caplog.at_level(logging.WARNING), warnings.catch_warnings():
        warnings.simplefilter("error")
        yield
    assert [record.getMessage() for record in caplog.records] == []


def saved(figure):
    """The figure as a PNG; what every figure must have is checked on the way."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=40)  # The layout is the same in fewer pixels.
    assert buffer.getvalue().startswith(PNG) and len(buffer.getvalue()) > 2000
    panels = [axes for axes in figure.axes if axes.get_label() != "<colorbar>"]
    assert panels[0].get_title()
    for axes in panels:
        assert axes.get_ylabel()
        if "rate" in axes.get_ylabel() or "share of" in axes.get_ylabel():
            assert "%" in axes.get_ylabel()
    assert panels[-1].get_xlabel() or panels[-1].get_xticklabels()
    return panels


@functools.cache
def once(draw, make):
    """The panels of a figure that several tests look at."""
    return saved(draw(make()))


def curves(axes):
    """Label -> (x, y) of the lines that stand in the legend."""
    lines = {line.get_label(): np.array(line.get_xydata(), dtype=float) for line in axes.get_lines()}
    return {label: xy for label, xy in lines.items() if not label.startswith("_")}


def labels(axes):
    """What the legend says: the panel's own, or the one under the figure."""
    (legend,) = [axes.get_legend()] if axes.get_legend() else axes.figure.legends
    return [text.get_text() for text in legend.get_texts()]


def points_of(axes):
    """All (x, y) that markers stand at, lines and scatters together; what is not finite is left out."""
    found = [np.array(line.get_xydata(), dtype=float) for line in axes.get_lines() if line.get_marker() != "None"]
    found += [np.ma.filled(np.ma.asarray(part.get_offsets(), dtype=float), NAN) for part in axes.collections]
    found = [xy.reshape(-1, 2) for xy in found]
    return {tuple(xy) for part in found for xy in part.tolist() if np.isfinite(xy).all()}
