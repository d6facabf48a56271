"""Pipelines for the ``brainsets`` command."""
