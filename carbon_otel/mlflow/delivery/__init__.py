"""Delivery to MLflow stores: a spool on disk, and an upload thread for each store."""
