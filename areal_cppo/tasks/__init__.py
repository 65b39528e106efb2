"""What tasks with known token roles share: read three values off a picture, add them.

A task draws its pictures (`triangles`, `charts`); vocabulary, prompt, response format,
token roles, scores, splits and held-out shifts are the same for all, and so are
tokenizer, processor, the tiny model's architecture and its warm-up.

What a reward needs (`task`, `responses`, `reward`, `canvas`, `shifts`, `vocabulary`,
`registry`) imports neither torch nor transformers: rewards are computed in processes of
their own.
"""
