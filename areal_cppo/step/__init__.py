"""One optimiser step: gate, views, packing, passes, loss; on AReaL's FSDP actor.

`update.py` is its order, on a page. Letters, in all files of this room:

| letter | counts |
| --- | --- |
| `B` | responses of a batch |
| `S` | its padded length, tokens |
| `T` | tokens of a micro-batch's responses, each whole, as AReaL's loss sees them |
| `R` | places of a row, in which responses share their prompt: what a pass computes |
| `W` | those of the `T` tokens whose distribution the loss asks for |
| `G` | gated tokens: those that the objective may use |
| `N` | perception tokens: those it selects |
| `D` | size of a hidden state |
| `P`, `F` | patches of images, and features of a patch |
"""
