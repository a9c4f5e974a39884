"""Flask: thin views over the packages that do the work."""
