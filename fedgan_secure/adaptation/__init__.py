"""What a run with a public start learns from patients, all of it in frozen public features."""
