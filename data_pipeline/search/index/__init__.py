"""An index on disk: its sources, shards, manifest and publishing."""
