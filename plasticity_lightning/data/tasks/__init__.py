"""Streams of tasks for continual learning, made from image data or drawn."""
