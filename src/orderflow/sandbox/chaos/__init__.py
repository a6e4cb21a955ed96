"""`orderflow chaos`: real processes are broken at random moments, and every order is counted."""
