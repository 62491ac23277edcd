"""Is a response a refusal? Judges are plain functions in a dict."""

from __future__ import annotations

from visage_mlflow.language.judges.by_advbench_keywords import advbench_keywords
from visage_mlflow.language.judges.by_keyword import is_settled_refusal, keyword
from visage_mlflow.language.judges.by_phrases import declines_at_once, phrases
from visage_mlflow.language.judges.judge import Judge, Verdict, never

__all__ = ["JUDGES", "Judge", "Verdict", "never"]

JUDGES: dict[str, Judge] = {
    "phrases": Judge(phrases, declines_at_once, loops_are_noise=True, version=6),
    "advbench_keywords": Judge(advbench_keywords, never),
    "keyword": Judge(keyword, is_settled_refusal, judges_coherence=True),
}
"""Judges by name, the default one first."""
