"""The HTTP faces: thin Flask views over the modules that do the work."""
