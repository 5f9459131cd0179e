"""What a model's own files say, read without trusting them: GGUF files, and folders as Hugging Face lays them out."""

from supervisord.adapters.model_files.reader import LocalModelFiles

__all__ = ["LocalModelFiles"]
