"""The tables that runs leave behind."""
