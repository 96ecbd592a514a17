"""Settings: what may be set, and the settings of each experiment."""
