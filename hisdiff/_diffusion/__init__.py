"""Noise schedules, prediction types and samplers, independent of genes and tissue."""
