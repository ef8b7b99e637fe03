"""Tests run as commands do: threads that wait for others leave them the core."""

from idgan_fast import startup

startup.prepare()  # before a test imports torch
