"""Interfaces and files of other tools."""
