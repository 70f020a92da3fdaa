"""DLM Edge: reads energy meters and says how much power is free for charging cars."""

__version__ = "0.1.0"
