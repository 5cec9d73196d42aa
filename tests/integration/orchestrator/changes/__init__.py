"""What is changed of runs over the wire, and what is made of them."""
