"""Run with `python3 -m unittest` in the folder above. Every archive is made by the tests."""
