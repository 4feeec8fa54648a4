"""Renderers: one file each; a renderer draws a compiled MuJoCo model."""
