"""The search page, served on this machine."""
