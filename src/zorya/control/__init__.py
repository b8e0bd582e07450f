"""What should be and what is: the clusters, their states, their operations, their record and their events."""
