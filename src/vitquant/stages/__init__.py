"""One Click command per DVC stage. Stages read parameters and paths; they compute nothing."""
