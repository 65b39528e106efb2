"""Settings: all dataclasses, and what is checked of them before anything starts.

The names here are those that the command line needs too, before torch is imported.
"""

SDPA, TORCH_FLASH, FLASH_ATTN = "sdpa", "torch_flash", "flash_attention_2"
KERNELS = (SDPA, TORCH_FLASH, FLASH_ATTN)  # `areal_cppo.step.attention`
TASK_NAMES = ("triangles", "charts", "prior")  # synthetic tasks, `areal_cppo.tasks`
TASK_PROMPT = 13  # tokens of a synthetic prompt, its picture included
SHIFTS = ("none", "font", "noise", "rotation", "colour")  # of held-out pictures
SOURCES = (*TASK_NAMES, "geometry3k", "virl39k", "clevr_count_70k", "custom")  # of data
SCHEDULERS = ("local", "allocation", "slurm", "ray")  # `areal_cppo.cluster`
UPDATE_MODES = ("disk", "xccl")  # how weights reach the generation servers
