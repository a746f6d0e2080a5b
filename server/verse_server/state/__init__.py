"""What must survive a kill and is asked for by its properties: one folder, SQLite and files."""
