"""MariaDB 10.6 or newer, unmodified."""
