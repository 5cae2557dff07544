"""Quantization as data: recipes, calibration photos, and the search that finds what must stay float."""
