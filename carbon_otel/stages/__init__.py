"""Stages: who was running, and what each of them paid."""
