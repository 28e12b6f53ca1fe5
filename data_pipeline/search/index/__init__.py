"""An index on disk: image sources, embedding, shards, manifest and atomic publishing of generations."""
