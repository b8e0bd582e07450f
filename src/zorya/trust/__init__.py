"""Certificates: who signs them, which one the server shows, and when it is changed."""
