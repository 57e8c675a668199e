"""An instance: one model behind one route, in its own process, on its own port and device."""
