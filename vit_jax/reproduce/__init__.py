"""The tables of the papers: computed, compared at small scale by training here, and as full recipes."""
