"""Where may weights live? Masks, allocation, criteria, FLOPs."""
