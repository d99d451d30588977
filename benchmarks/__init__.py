"""Measurements beside their floors, one question for each file. ``python -m benchmarks`` runs them all."""
