"""The models of presets `dit` and `paper`: the published network, around the closed-form mean or for all of expression."""
