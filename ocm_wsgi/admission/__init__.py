"""May this user do this now?"""
