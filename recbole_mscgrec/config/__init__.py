"""Settings: their sources, allowed values, and which of them identify a run."""
