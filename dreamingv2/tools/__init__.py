"""What reads runs: evaluation, tables, figures, sweeps, benchmarks."""
