"""What all settings share."""

import re
from typing import Any

from pydantic import BaseModel, ConfigDict, field_validator

CREDENTIALS = re.compile(
    r"://[^/?#\s]*:[^/?#\s]*@"  # user:password@
    r"|[?&](x-amz-signature|x-amz-credential|x-amz-security-token|signature|sig|access_token|token|api_key|apikey|key"
    r"|password|secret)=",
    re.IGNORECASE,
)
"""Addresses that carry a secret: settings go into manifests, artifacts and logs."""


class Settings(BaseModel):
    """Frozen, closed (an unknown field is an error), finite; an address that carries a secret is refused."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=(), hide_input_in_errors=True
    )

    @field_validator("*")
    @classmethod
    def _no_credentials(cls, value: Any) -> Any:
        for text in value if isinstance(value, list | tuple) else (value,):
            if isinstance(text, str) and "://" in text and CREDENTIALS.search(text):
                raise ValueError(
                    "an address with a password, token or signature in it; settings are written into manifests and "
                    "shown in the UI, so give credentials through the environment (AWS_ACCESS_KEY_ID, HF_TOKEN, "
                    "~/.netrc) and the plain address here"
                )
        return value
