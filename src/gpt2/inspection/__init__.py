"""Look inside a GPT-2: every value by name, every view with the identity that proves it (docs/inspection.md)."""

from gpt2.inspection.attention import Attention, AttentionAtlas
from gpt2.inspection.attribution import Attribution, attribution
from gpt2.inspection.cache import Cache, forward
from gpt2.inspection.checks import Checks, checks_of
from gpt2.inspection.head_steps import HeadSteps
from gpt2.inspection.interventions import Intervention, ablate, patch, steer, swap
from gpt2.inspection.lens import LogitLens, logit_lens
from gpt2.inspection.names import all_names, long_name
from gpt2.inspection.odds import Odds, odds
from gpt2.inspection.residual import ResidualNorms, residual_norms
from gpt2.inspection.result import Check, Result
from gpt2.inspection.run import Run, run
from gpt2.inspection.surprise import Surprise, surprise

__all__ = [
    "Attention", "AttentionAtlas", "Attribution", "Cache", "Check", "Checks", "HeadSteps", "Intervention", "LogitLens",
    "Odds", "ResidualNorms", "Result", "Run", "Surprise", "ablate", "all_names", "attribution", "checks_of", "forward",
    "logit_lens", "long_name", "odds", "patch", "residual_norms", "run", "steer", "surprise", "swap",
]  # fmt: skip
