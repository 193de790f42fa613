"""What a model's own files tell, read without loading them."""
