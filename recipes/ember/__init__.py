"""How the embedded base model `ember` is made: its text, its tokenizer, its credits."""
