"""Readers of the person re-identification benchmarks: from their official files to one table layout."""
