"""Analysis of models: attention, rank collapse, positions, embeddings, cost, and few-shot evaluation."""

from vit_jax.analysis.attention import attention as attention
from vit_jax.analysis.branches import Parts as Parts
from vit_jax.analysis.branches import open_stack as open_stack
from vit_jax.analysis.cost import Cost as Cost
from vit_jax.analysis.cost import cost as cost
from vit_jax.analysis.cost import cost_by_size as cost_by_size
from vit_jax.analysis.distance import attention_distance as attention_distance
from vit_jax.analysis.distance import distance_of_examples as distance_of_examples
from vit_jax.analysis.embeddings import cka as cka
from vit_jax.analysis.embeddings import knn_accuracy as knn_accuracy
from vit_jax.analysis.features import extract as extract
from vit_jax.analysis.features import features as features
from vit_jax.analysis.few_shot import few_shot as few_shot
from vit_jax.analysis.maps import attention_map as attention_map
from vit_jax.analysis.maps import attention_matrix as attention_matrix
from vit_jax.analysis.paths import outputs_by_length as outputs_by_length
from vit_jax.analysis.paths import paths_by_length as paths_by_length
from vit_jax.analysis.positions import in_space as in_space
from vit_jax.analysis.positions import patch_filters as patch_filters
from vit_jax.analysis.positions import similarity as similarity
from vit_jax.analysis.rank_collapse import decay as decay
from vit_jax.analysis.rank_collapse import residuals_by_depth as residuals_by_depth
from vit_jax.analysis.received import received_attention as received_attention
from vit_jax.analysis.sentences import sentence_attention as sentence_attention
from vit_jax.analysis.translations import translation_attention as translation_attention
