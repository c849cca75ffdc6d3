"""Several machines and what lies between them, by an agent that is sent to each over ssh."""
