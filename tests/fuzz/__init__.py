"""Coverage-guided fuzzing: targets, their corpus, and the program that runs them (`make fuzz`)."""
