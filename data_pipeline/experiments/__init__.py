"""The paper's tables and figures, and ours: YAML files of config overrides, and what trains and shows them."""
