"""``make bench``: what hits, boots and symbols cost, as ratios within one run."""
