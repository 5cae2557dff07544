"""Mask quality by one protocol, without torch."""
