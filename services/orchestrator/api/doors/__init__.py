"""What a request passes before it is answered: TLS, who asks and for what, how much and how often."""
