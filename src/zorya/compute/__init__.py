"""Engine processes: start them so that they outlive Zorya, notice their end, find them again."""
