"""What a response is worth: a correct answer, a kept format."""

from areal_cppo.rewards.answers import final_answer, is_correct

__all__ = ["final_answer", "is_correct"]
