"""Logs in, batches out."""
