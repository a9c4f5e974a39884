"""What WSGI servers provide beyond PEP 3333."""
