"""The devices and processes of a run: strategies, agreement between processes, and signals."""
