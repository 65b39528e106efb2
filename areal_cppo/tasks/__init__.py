"""What tasks with known token roles share: read three values off a picture, add them.

A task draws its pictures (`drawings`); vocabulary, prompt, response format, token
roles, scores, splits and held-out shifts are the same for all, and so are tokenizer,
processor, the tiny model's architecture and its warm-up.

Problems and what a reward needs (`problems`, `responses`, `drawings`, `pictures`)
import neither torch nor transformers. The folders hold the models that come with the
package.
"""
