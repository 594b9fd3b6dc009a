"""Parts of the method `stage`: the autoencoder and its loss, and the coordinates it works in."""
