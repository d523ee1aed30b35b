"""Reference data sets drawn with GalSim: many processes, the same rows, resumable, one FITS file."""
