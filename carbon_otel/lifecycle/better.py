"""Whether lower values of a metric are better, by its name."""

from __future__ import annotations

import re
from typing import Final

_LOWER: Final = re.compile(
    "(m?error|err|loss|m?logloss|nll|nloglik|entropy|[nr]*mse|rms(l|p)e|msle|mae|s?mape|mase|mspe|perplexity|ppl|"
    "[wce]er|deviance|brier|l[12])"
)
_HIGHER: Final = re.compile(
    "(accuracy|acc|auc|auroc|aucpr|f1|precision|recall|r2|score|bleu|rouge|map|m?iou|dice|ndcg|mcc|kappa)"
)
# Seconds, spreads and ranks that scikit-learn names after the score that they belong to.
_NO_QUALITY: Final = re.compile("(time|seconds|std|rank)")
# scikit-learn's `neg_mean_squared_error` is better if it is higher.
_NEGATED: Final = re.compile("neg")


def direction(metric: str) -> bool | None:
    """Whether lower values of a metric with this name are better; None if the name does not say."""
    if has_word(metric, _NO_QUALITY):
        return None
    if has_word(metric, _LOWER):
        return not has_word(metric, _NEGATED)
    return False if has_word(metric, _HIGHER) else None


def lower_is_better(metric: str) -> bool:
    """The same; raises ValueError if the name does not say."""
    lower = direction(metric)
    if lower is None:
        raise ValueError(
            f"the name {metric!r} does not say which values are better: --lower-is-better or --higher-is-better "
            "(lower_is_better=True or False)"
        )
    return lower


def has_word(metric: str, words: re.Pattern[str]) -> bool:
    """Whether one of the words of a name, such as `val_loss` or `valLoss`, is one of these."""
    parts = re.split(r"[^A-Za-z0-9]+", re.sub(r"([a-z])([A-Z])", r"\1_\2", metric))
    return any(words.fullmatch(part.lower()) for part in parts)
