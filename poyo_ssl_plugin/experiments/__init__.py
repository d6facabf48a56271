"""Experiments: comparisons, baselines, figures and reports."""
