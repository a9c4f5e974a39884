"""Flask: turns requests into calls of the packages below, and their results into responses."""
