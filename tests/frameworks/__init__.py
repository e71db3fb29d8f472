"""Tests with the real libraries, in an environment of their own: `pytest tests/frameworks`."""
