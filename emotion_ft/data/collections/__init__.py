"""Folders of annotated music to datasets: one row per song."""
