"""Tables, figures and one self-contained page from records alone; imports no torch of its own."""
