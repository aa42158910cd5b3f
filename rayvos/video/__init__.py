"""Frames from image folders and video files, local or remote, and clips generated from a seed."""
