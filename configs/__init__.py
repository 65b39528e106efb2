"""Ready configurations; a package, so that a user's own can start from them:
`hydra: {searchpath: [pkg://areal_cppo.configs]}`."""
