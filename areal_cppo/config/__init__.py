"""Settings: all dataclasses, and what is checked of them before anything starts.

The names here are those that the command line needs too, before torch is imported.
"""

SDPA, TORCH_FLASH, FLASH_ATTN = "sdpa", "torch_flash", "flash_attention_2"
KERNELS = (SDPA, TORCH_FLASH, FLASH_ATTN)  # `areal_cppo.step.attention`
# Synthetic tasks, `areal_cppo.tasks`: tokens of the longest prompt, pictures included.
TASK_PROMPTS = {"triangles": 13, "charts": 13, "prior": 13, "legends": 20}
TASK_NAMES = tuple(TASK_PROMPTS)
SHIFTS = (  # of held-out pictures
    *("none", "font", "noise", "rotation", "colour"),
    *("jpeg", "clutter", "place"),
)
SOURCES = (*TASK_NAMES, "geometry3k", "virl39k", "clevr_count_70k", "custom")  # of data
SCHEDULERS = ("local", "allocation", "slurm", "ray")  # `areal_cppo.cluster`
UPDATE_MODES = ("disk", "xccl")  # how weights reach the generation servers
GOES_ON = ("on", "auto")  # values of recover.mode with checkpoints to go on from
