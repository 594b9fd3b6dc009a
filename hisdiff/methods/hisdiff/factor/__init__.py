"""The model of preset `fast`: a closed-form mean, factors of its residuals, and counting noise."""
