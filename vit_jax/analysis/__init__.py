"""Analysis of models: attention, cost, features, and few-shot linear evaluation of the features."""

from vit_jax.analysis.attention import attention as attention
from vit_jax.analysis.beams import Hypothesis as Hypothesis
from vit_jax.analysis.beams import beam_steps as beam_steps
from vit_jax.analysis.cost import Cost as Cost
from vit_jax.analysis.cost import cost as cost
from vit_jax.analysis.features import extract as extract
from vit_jax.analysis.features import features as features
from vit_jax.analysis.few_shot import few_shot as few_shot
from vit_jax.analysis.maps import attention_map as attention_map
from vit_jax.analysis.maps import attention_matrix as attention_matrix
