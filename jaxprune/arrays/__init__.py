"""Arrays of NumPy on the host, the precision in which numbers are added up, and shardings."""
