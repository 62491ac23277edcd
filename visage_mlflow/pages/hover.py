"""Texts that a page shows for a model, a point or a checkpoint, in the markup that Plotly understands.

Names and answers are untrusted: they are shown as text, and never become markup, script or a template.
"""

from __future__ import annotations

import html
import math
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence

from visage_mlflow.figures.style import clean, number
from visage_mlflow.results import Landscape, Place, Point, Response

Answers = Mapping[tuple[float, float], Response]

ANSWER_LENGTH = 240
ANSWER_COLUMNS = 60
CHECKPOINTS = "A checkpoint is filled with the colour of its own ASR; the smaller it is, the farther from the plane."


def by_place(responses: Sequence[Response]) -> Answers:
    """(x, y) -> the response there to the first prompt."""
    return {(one.x, one.y): one for one in responses if one.prompt == responses[0].prompt}


def about(result: Landscape, responses: Sequence[Response]) -> list[str]:
    """Two paragraphs: what was measured, and which prompt the answers are to; not yet escaped."""
    prompt = f"Answers are to the prompt: “{_cut(responses[0].prompt)}”" if responses else "No answers were kept."
    measured = f"{result.setup.n_prompts} prompts of {result.setup.prompts}, judged by {result.setup.judge}"
    return [f"Model: {result.setup.model}; {measured}.", prompt]


def about_point(point: Point, answers: Answers) -> str:
    """The ASR at a point, its verdicts, and the answer to one prompt."""
    place = f"x = {number(point.x, 3)}, y = {number(point.y, 3)}"
    if math.isnan(point.asr):
        return f"{place}<br>not measured"
    counts = ", ".join(f"{n} {verdict}" for verdict, n in Counter(point.verdicts).most_common())
    answer = answers.get((point.x, point.y))
    if answer is None:
        said = "no answer kept"
    elif answer.text is None:
        said = f"no answer ({as_markup(answer.verdict)}): no token could be chosen"
    else:
        said = f"answer ({as_markup(answer.verdict)}):<br>{as_markup(answer.text)}"
    return f"{place}<br>{_rate('ASR', point.asr, point.asr_low, point.asr_high)}<br>{as_markup(counts)}<br>{said}"


def about_place(course: str, place: Place) -> str:
    """A checkpoint's ASR, and that of the plane's nearest point."""
    lines = (
        f"{as_markup(course)}, step {place.training_step}",
        f"x = {number(place.x, 3)}, y = {number(place.y, 3)}",
        _rate("ASR of the checkpoint", place.asr, place.asr_low, place.asr_high),
        _rate("of the plane here", place.plane_asr, place.plane_asr_low, place.plane_asr_high),
        f"off-plane share {number(place.off_plane_share, 2)}",
    )
    return "<br>".join(lines)


def _rate(name: str, asr: float, low: float, high: float) -> str:
    return f"{name} {number(asr)}" + ("" if math.isnan(asr) else f" % ({low:.1f} to {high:.1f})")


def as_markup(untrusted: str) -> str:
    """Markup that shows an untrusted text: broken into lines, cut, without control characters."""
    # Each line is escaped after the text is broken into lines, so that no entity is cut in two. Quotes are not
    # escaped, since Plotly shows their entities as they are.
    return "<br>".join(html.escape(line, quote=False) for line in textwrap.wrap(_cut(untrusted), ANSWER_COLUMNS))


def in_lines(label: str) -> str:
    """An axis label as markup, its notes on lines of their own."""
    return html.escape(label, quote=False).replace(" (", "<br>(", 1).replace("; made", ";<br>made")


def _cut(text: str) -> str:
    text = clean(text)
    return text if len(text) <= ANSWER_LENGTH else f"{text[: ANSWER_LENGTH - 1]}…"
