"""Values as notebooks show them, and the commands `%carbon` and `%%carbon` of IPython."""
