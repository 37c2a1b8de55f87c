"""What users hold in their hands: entities, and what else is known of a text."""
