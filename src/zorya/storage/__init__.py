"""What is decided for the copies of a volume: how many a commit is on, which log to go on from, how each is mended."""
