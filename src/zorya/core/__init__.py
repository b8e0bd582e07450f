"""What every room may use: errors, identifiers, shared values, settings, clock, files, logging."""
