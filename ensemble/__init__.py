"""Soft voting over the trials that searches left in a studies folder."""
