"""Pictures for the screen, in `pictures`, and what figures for papers share, in `figure`."""

from vit_jax.plots.figure import COLOURS as COLOURS
from vit_jax.plots.figure import COLUMN as COLUMN
from vit_jax.plots.figure import DIVERGING as DIVERGING
from vit_jax.plots.figure import PAGE as PAGE
from vit_jax.plots.figure import SEQUENTIAL as SEQUENTIAL
from vit_jax.plots.figure import check_path as check_path
from vit_jax.plots.figure import figure as figure
from vit_jax.plots.pictures import GREEN as GREEN
from vit_jax.plots.pictures import GREY as GREY
from vit_jax.plots.pictures import RED as RED
from vit_jax.plots.pictures import contact_sheet as contact_sheet
from vit_jax.plots.pictures import film_strip as film_strip
from vit_jax.plots.pictures import heat_maps as heat_maps
from vit_jax.plots.pictures import plot_curves as plot_curves
