"""The words of the report for tokens and images. One vocabulary."""

# The roles of a response's tokens in the triangle task, where all are known.
ROLES = {
    "R": "reads a digit off the image: the true perception tokens",
    "N": "names a side",
    "C": "copies a digit it has read",
    "A": "arithmetic",
    "F": "the final answer",
    "T": "template",
}

IMAGES = {
    "anchor": ("Anchor", "the original image"),
    "positive": ("Positive view", "keeps the information"),
    "negative": ("Negative view", "removes information"),
}
