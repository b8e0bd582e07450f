"""Capacity and storage over time, to the second."""
