"""Numerical kernels: metrics, structure, resampling. Arrays in, numbers out."""
