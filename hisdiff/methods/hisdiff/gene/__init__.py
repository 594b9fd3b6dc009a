"""The model of presets `dit` and `paper`: diffusion of the whole gene vector, one token per gene."""
