"""Image classification: files, formats, data modules."""
