"""The ways to get a token: a module for each type of credential, and what they share."""
