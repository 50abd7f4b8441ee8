"""The embedded scale's data: a seeded synthetic language that is learned in minutes on a CPU."""
