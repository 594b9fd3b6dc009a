"""Parts of the superpixel network with weak supervision."""
