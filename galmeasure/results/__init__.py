"""Results: from parameters in stamp pixels to tables with units, and back."""
