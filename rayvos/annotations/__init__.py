"""The records of a clip and its prompts, the tables they are stored in, and the run folder that holds labels."""
