"""The generation server: SGLang, with or without a GPU."""
