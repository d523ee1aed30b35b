"""Bodies of networks of point estimates: from stamps and PSFs to labels and features."""
