"""SGLang on CPUs: its platform, attention and elementwise layers."""
