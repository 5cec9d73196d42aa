"""The weight channel's receiving end: member record, commands, and holding weights for evaluations."""
