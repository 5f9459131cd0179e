"""Makes local LLM servers on a GPU workstation as dependable as a database."""
