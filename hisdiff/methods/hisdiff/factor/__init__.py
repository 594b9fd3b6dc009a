"""The model of preset `fast`: a closed-form mean, factors of what it leaves, counts on top."""
