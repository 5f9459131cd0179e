"""OpenAI's responses in the background."""
