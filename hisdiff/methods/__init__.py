"""Methods: from sections to predictions. Nothing here knows SpatialData."""
