"""The report in the file formats of other tools."""
