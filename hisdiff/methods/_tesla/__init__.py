"""Parts of the method `tesla`: colour of superpixels, weights of neighbouring spots."""
