"""What takes how long, compared side by side: ``python -m benchmarks``."""
