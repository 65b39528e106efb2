"""Why a response, or a group of them, is not trained on.

What can't be trained on is refused and counted, never scored 0; the workflow records
each reason as 0 or 1, so that means are shares:

| `refused/...` | refused because |
| --- | --- |
| `prompt_too_long` | a limit is exceeded by the prompt, or would be by its response |
| `request_failed` | the server failed, after AReaL's retries |
| `vision_token` | it holds one, and the model would look for an image behind it |
| `reward_timeout` | its answer could not be checked in time |
| `reward_error` | the reward function raised, or its process died |
| `group_dropped` | (a group, not a response) too few of its responses were left |
| `group_all_equal` | (likewise) all of them have the same reward |

With `groups.on_failed_response: keep` a group goes on without the responses it lost,
and is dropped when fewer than two are left: compared with itself alone, a response has
no advantage. With `drop` it is dropped when it lost any. The last reason is counted
with `groups.all_equal: drop` only.
"""

from __future__ import annotations

REFUSED = "refused/"  # of the statistics' names
REASONS = (
    "prompt_too_long",
    "request_failed",
    "vision_token",
    "reward_timeout",
    "reward_error",
)
GROUP_DROPPED = "group_dropped"
GROUP_ALL_EQUAL = "group_all_equal"
FEWEST = 2  # responses that can be compared


class Refused(Exception):
    """A response that can't be trained on.

    Attributes
    ----------
    reason
        One of `REASONS`.
    tokens
        Of the response, as far as it is there.
    """

    def __init__(self, reason: str):
        super().__init__(reason)
        self.reason = reason
        self.tokens: list[int] = []


class VisionTokenSampled(Refused):
    """A response holds a vision token, with no image behind it."""

    def __init__(self):
        super().__init__("vision_token")
