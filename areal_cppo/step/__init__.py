"""One optimiser step: gate, views, packing, passes, loss; on AReaL's FSDP actor."""
