"""What methods share to predict: noise by place, draws, fields, footprints, agreement with counts."""
