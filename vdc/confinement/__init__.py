"""How a program that reads what others made is shut in: the sandbox's command line and its system call filter."""
