"""The command line interface: the commands, and their output as text or JSON documents."""
