"""Data path, trainer and everything on disk; imports neither `search` nor `ensemble`."""
