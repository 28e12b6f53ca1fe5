"""Reproduces the tables and figures of the paper, and further ones, from YAML files of config overrides."""
