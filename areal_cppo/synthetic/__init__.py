"""What tasks with known token roles share: read three values off a picture, add them.

A task draws its pictures; vocabulary, prompt, response format, token roles, scores,
splits and held-out shifts are the same for all, and so are tokenizer, processor and the
tiny model's architecture (`areal_cppo.triangles`).

Nothing here needs torch or transformers when it is imported: rewards are computed in
processes of their own.
"""
