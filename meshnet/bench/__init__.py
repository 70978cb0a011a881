"""Measurements: what each path through the kernel costs, as ratios within one run."""
