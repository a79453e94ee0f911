"""Arrays of NumPy on the host, and the precision in which numbers are added up."""
