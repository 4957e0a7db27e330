"""Measurements; see the README."""
