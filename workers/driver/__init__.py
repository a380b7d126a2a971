"""The driver: runs one job from probe to verdict, in a process of its own."""
