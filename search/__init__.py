"""Optuna studies over `core`'s trainer."""
