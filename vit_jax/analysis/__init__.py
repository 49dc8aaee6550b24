"""Analysis of models: attention, cost, features, and few-shot linear evaluation of the features."""

from vit_jax.analysis.attention import attention as attention
from vit_jax.analysis.beams import Hypothesis as Hypothesis
from vit_jax.analysis.beams import beam_steps as beam_steps
from vit_jax.analysis.cost import Cost as Cost
from vit_jax.analysis.cost import cost as cost
from vit_jax.analysis.distance import attention_distance as attention_distance
from vit_jax.analysis.distance import distance_of_examples as distance_of_examples
from vit_jax.analysis.features import extract as extract
from vit_jax.analysis.features import features as features
from vit_jax.analysis.few_shot import few_shot as few_shot
from vit_jax.analysis.maps import attention_map as attention_map
from vit_jax.analysis.maps import attention_matrix as attention_matrix
from vit_jax.analysis.received import received_attention as received_attention
from vit_jax.analysis.sentences import sentence_attention as sentence_attention
from vit_jax.analysis.translations import translation_attention as translation_attention
