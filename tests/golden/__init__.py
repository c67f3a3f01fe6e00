"""Numbers of the official code, and the command that compares this project with them."""
