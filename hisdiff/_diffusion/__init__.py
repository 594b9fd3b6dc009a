"""Noise schedules, prediction types and samplers; they know nothing of genes or tissue."""
