"""Training and its reports."""
