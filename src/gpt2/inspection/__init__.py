"""Look inside a GPT-2: every value by name, every view with the identity that proves it (docs/inspection.md)."""

from gpt2.inspection.ablation import AblationGrid, ablation_grid
from gpt2.inspection.attention import Attention, AttentionAtlas
from gpt2.inspection.attribution import Attribution, attribution
from gpt2.inspection.cache import Cache, forward
from gpt2.inspection.checks import Checks, checks_of
from gpt2.inspection.dependency import Dependency, dependency
from gpt2.inspection.effect import Effect, effect
from gpt2.inspection.embedding import (
    EmbeddingMap,
    Neighbours,
    PositionSimilarity,
    embedding_map,
    neighbours,
    position_similarity,
)
from gpt2.inspection.head_steps import HeadSteps
from gpt2.inspection.heads import HeadKinds, head_kinds
from gpt2.inspection.induction import Induction, Repeats, induction, repeats
from gpt2.inspection.interventions import Intervention, ablate, patch, steer, swap
from gpt2.inspection.ledger import ParameterLedger, parameter_ledger
from gpt2.inspection.lens import LogitLens, logit_lens
from gpt2.inspection.names import all_names, long_name
from gpt2.inspection.odds import Odds, odds
from gpt2.inspection.patching import PatchGrid, patch_grid
from gpt2.inspection.residual import ResidualNorms, residual_norms
from gpt2.inspection.result import Check, Result
from gpt2.inspection.run import Run, run
from gpt2.inspection.surprise import Surprise, surprise
from gpt2.inspection.timeline import Timeline, timeline
from gpt2.inspection.whole import Whole

__all__ = [
    "AblationGrid", "Attention", "AttentionAtlas", "Attribution", "Cache", "Check", "Checks", "Dependency", "Effect",
    "EmbeddingMap", "HeadKinds", "HeadSteps", "Induction", "Intervention", "LogitLens", "Neighbours", "Odds",
    "ParameterLedger", "PatchGrid", "PositionSimilarity", "Repeats", "ResidualNorms", "Result", "Run", "Surprise",
    "Timeline", "Whole", "ablate", "ablation_grid", "all_names", "attribution", "checks_of", "dependency", "effect",
    "embedding_map", "forward", "head_kinds", "induction", "logit_lens", "long_name", "neighbours", "odds",
    "parameter_ledger", "patch", "patch_grid", "position_similarity", "repeats", "residual_norms", "run", "steer",
    "surprise", "swap", "timeline",
]  # fmt: skip
