"""Classifying videos with a trained VTN: whole files of any length, and live streams."""
