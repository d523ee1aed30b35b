"""What the command line can do, callable from Python: measure, calibrate, evaluate, learn the OOD reference."""
