"""Networks and their starting weights."""
