"""Torch modules, each with its frozen Config. No files, no devices, no downloads."""
