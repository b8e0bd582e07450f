"""How to run one database engine: find, initialise, configure, start, probe, stop. No policy."""
