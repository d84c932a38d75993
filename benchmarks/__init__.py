"""Measurements. Each prints a table and writes JSON; ratios are against a plain baseline in the same run."""
