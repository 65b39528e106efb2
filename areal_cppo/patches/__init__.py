"""What is mended in the packages below, and what of their insides is relied on.

`areal_cppo.patches.areal`, `.sglang`, `.torch` and `.transformers` hold the patches: a
function a patch, named after its target. `contracts` is the table of the methods that
are overridden, and of the private names that are used, with the signatures that this
package was written against; `upstream` compares. `docs/upstream.md` says why.
"""
