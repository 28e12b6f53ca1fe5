"""How each kind of experiment is shown in the report."""

from collections.abc import Callable

from .definitions import Experiment
from .results import RunResults
from .section import Section
from .sections_analysis import beta_section, disentanglement_section, noise_section
from .sections_figures import efficiency_section, examples_section, gates_section, tsne_section
from .sections_tables import choices_section, table_section

SECTIONS: dict[str, Callable[[Experiment, RunResults], Section]] = {
    "table": table_section,
    "choices": choices_section,
    "beta": beta_section,
    "disentanglement": disentanglement_section,
    "noise": noise_section,
    "gates": gates_section,
    "tsne": tsne_section,
    "efficiency": efficiency_section,
    "examples": examples_section,
}
