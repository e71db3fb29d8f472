"""Stages: the API that opens them, and the division of energy among the open stages."""
