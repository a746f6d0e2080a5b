"""Looking after adapter folders: list, show, compare, import, export, fuse, remove."""
