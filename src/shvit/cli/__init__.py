"""The ``shvit`` command: one small module for each subcommand, imported only when it is asked for."""
