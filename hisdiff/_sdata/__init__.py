"""The only part of hisdiff that reads and writes SpatialData."""
