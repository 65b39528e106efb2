"""The algorithm of CPPO (arXiv 2601.00501): pure functions on tensors, and settings.

And those of PAPO (arXiv 2507.06448), VPPO (arXiv 2510.09285), DVRP (arXiv 2601.06801)
and PGPO (arXiv 2604.01840), to compare it with.
Needs torch and kornia only; it never imports AReaL, an inference server or
transformers.
"""

from areal_cppo.core.cpl import (
    CPLConfig,
    StalenessConfig,
    ViewsConfig,
    parse_perturbations,
)
from areal_cppo.core.divergence import token_divergence
from areal_cppo.core.dvrp import DVRPConfig, dvrp_loss
from areal_cppo.core.head import (
    TokenStatistics,
    hidden_entropy,
    score_hidden,
    token_statistics,
    view_divergence,
    view_divergences,
)
from areal_cppo.core.loss import aggregate_token_loss, contrastive_perception_loss
from areal_cppo.core.papo import PAPOConfig, papo_loss, perception_divergence
from areal_cppo.core.patchify import (
    PatchLayout,
    denormalize,
    normalize,
    patchify,
    unpatchify,
)
from areal_cppo.core.perception import (
    PerceptionLoss,
    perception_loss,
    perception_tokens,
    selection_seeds,
)
from areal_cppo.core.perturbation_base import Perturbation
from areal_cppo.core.perturbations import PERTURBATIONS
from areal_cppo.core.pgpo import (
    PGPOConfig,
    dependency_positions,
    perception_weights,
)
from areal_cppo.core.responses import draw_responses
from areal_cppo.core.scores import (
    TokenScores,
    entropy_gain,
    entropy_rise,
    rise_eligible,
    score_tokens,
    token_entropy,
)
from areal_cppo.core.selection import select_perception_tokens, select_random_tokens
from areal_cppo.core.staleness import staleness_weights, token_weights
from areal_cppo.core.views import (
    ViewBatch,
    image_digest,
    make_views,
    perturb_kinds,
    perturb_pixel_values,
    view_seed,
)
from areal_cppo.core.vppo import (
    VPPOConfig,
    advantage_factors,
    response_dependency,
    select_dependent_tokens,
)

__all__ = [
    "PERTURBATIONS",
    "CPLConfig",
    "DVRPConfig",
    "PAPOConfig",
    "PGPOConfig",
    "PatchLayout",
    "PerceptionLoss",
    "Perturbation",
    "StalenessConfig",
    "TokenScores",
    "TokenStatistics",
    "VPPOConfig",
    "ViewBatch",
    "ViewsConfig",
    "advantage_factors",
    "aggregate_token_loss",
    "contrastive_perception_loss",
    "denormalize",
    "dependency_positions",
    "draw_responses",
    "dvrp_loss",
    "entropy_gain",
    "entropy_rise",
    "hidden_entropy",
    "image_digest",
    "make_views",
    "normalize",
    "papo_loss",
    "parse_perturbations",
    "patchify",
    "perception_divergence",
    "perception_loss",
    "perception_tokens",
    "perception_weights",
    "perturb_kinds",
    "perturb_pixel_values",
    "response_dependency",
    "rise_eligible",
    "score_hidden",
    "score_tokens",
    "select_dependent_tokens",
    "select_perception_tokens",
    "select_random_tokens",
    "selection_seeds",
    "staleness_weights",
    "token_divergence",
    "token_entropy",
    "token_statistics",
    "token_weights",
    "unpatchify",
    "view_divergence",
    "view_divergences",
    "view_seed",
]
