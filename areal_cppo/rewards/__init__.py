"""What a response is worth: a correct answer, a kept format."""
