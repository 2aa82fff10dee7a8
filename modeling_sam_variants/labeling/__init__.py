"""Labeling of whole datasets: sources in parts, shards out, resumable. Needs the extra `label`."""
