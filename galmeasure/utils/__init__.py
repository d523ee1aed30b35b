"""What knows no galaxy: arrays, units, files, coordinates, processes."""
