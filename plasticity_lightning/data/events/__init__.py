"""Event-camera recordings: files, formats, emulation, data modules."""
