"""Builds: plan, workers, what is kept, shards."""
