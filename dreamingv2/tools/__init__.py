"""Tools that read or start runs: evaluate, tables, figures, sweep, ..."""
