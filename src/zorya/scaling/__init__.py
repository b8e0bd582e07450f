"""Demand to capacity: what a cluster uses, what it should have, and who gets how much where there is too little."""
